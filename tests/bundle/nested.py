"""The server of a machine where containers cannot be built from outside: its workers have interpreters ready."""

from __future__ import annotations

import sys

from wherry.bundle import server, worker

if __name__ == "__main__":
    server.serve(sys.argv[1], sys.argv[2], worker.nesting)
