"""The client side of OCI registries.

Read ``client`` first, then ``transport`` (HTTP, tokens, redirects, retries) and ``credentials`` (who may be told what). Only ``images``
and rooms above it may import this room.
"""
