"""The OCI distribution protocol: transport, client, server.

May import ``store``, ``kernel``, ``spec``, ``errors``, ``ids``.
"""
