"""OCI registries: the client of those elsewhere, and one of our own.

The client: read ``client`` first, then ``repository`` and ``transport`` (HTTP, tokens, redirects, retries), ``credentials`` (who may be
told what) and ``trust`` (who is believed). Only ``images`` and rooms above it may import it. The server, a process of its own (``serve``):
read ``server`` first, then ``pulls`` and ``pushes``, ``holdings`` (what is kept, on ``objects`` or ``bucket``), ``uploads``, ``through``
(a cache in front of another registry) and ``garbage``.
"""
