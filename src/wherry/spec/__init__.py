"""Data only: what crosses a socket or lies on disk; no I/O.

Read ``reference`` and ``image`` for images, ``launch`` and ``mounts`` for what the daemon hands the runtime, ``docker/`` for the
Engine API's bodies. Anything may import this room. ``launch`` and ``mounts`` are standard library only: the zygote imports them.
"""
