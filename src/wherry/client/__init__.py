"""A client of the Engine API: raw HTTP over a unix or TCP socket, cheap to import.

May import ``spec``, ``errors``.
"""
