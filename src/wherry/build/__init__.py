"""Dockerfiles become images: parse, graph, solve.

Read ``graph`` first. May import ``runtime``, ``store`` and below.
"""
