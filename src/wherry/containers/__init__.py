"""Containers: create, start, stop, exec, attach, logs.

Read ``service`` and ``lifecycle`` first. May import ``runtime``, ``store`` and below.
"""
