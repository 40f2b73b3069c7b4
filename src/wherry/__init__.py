"""Wherry: a container engine in Python."""
