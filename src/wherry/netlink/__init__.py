"""rtnetlink and nf_tables over raw sockets.

Read ``message`` (headers and attributes, no socket), then ``request``. May import ``kernel``, ``spec``, ``errors``, ``ids``.
"""
