"""Bytes and trees on disk: content by digest, snapshots, records.

Read ``snapshot`` first. May import ``tree``, ``kernel``, ``spec``, ``errors``, ``ids``.
"""
