"""The command line.

Read ``main`` first. May import ``client``, ``spec``, ``errors``; never ``engine``: the socket is a wall.
"""
