"""Processes that are ready before they are asked: servers that do a command in the place of a shell script that asks them.

Read ``serving`` first, then ``caller``; the scripts are ``bin/wherry`` and ``bin/wherry-runtime``, their work is in ``cli/server.py`` and
``bundle/server.py``. Imports ``kernel`` only.
"""
