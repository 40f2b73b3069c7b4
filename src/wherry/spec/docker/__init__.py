"""The Engine API's bodies, one module per resource: what clients send and read, as typed values with Docker's JSON names.

Read ``body`` first: it says how a field is named, when it appears, and how a request is read as tolerantly as Docker reads it.
``container`` is the largest and the best example. Anything may import this room; it imports only msgspec and ``errors``.
"""
