"""Volumes: directories that outlive containers.

May import ``store`` and below.
"""
