"""Images: names, configs, layers; pull, push, archives.

Read ``service`` first. May import ``registry``, ``store`` and below.
"""
