"""The Docker Engine API over HTTP.

Read ``routes`` first. May import ``engine``, ``spec``, ``errors``.
"""
