"""Images: names, configs, layers; pull, push, archives.

Read ``service`` first (what others call), then ``catalog`` (which images and names exist) and ``layers`` (blobs become snapshots and
back). May import ``registry``, ``store`` and below.
"""
