"""A daemon that is killed at its N-th change of the world: what kill -9 at every stage means, exactly and again and again.

While the file ``$WHERRY_TEST_KILL`` exists, each call that changes a file, a record, the network or another process counts; the one whose
number stands in the file is not made: the daemon gets SIGKILL instead.  Run as the daemon is: ``python mortal_daemon.py --data-root ...``.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from typing import Any

_FILE = os.environ.get("WHERRY_TEST_KILL", "")
_CALLS = ("rename", "replace", "mkdir", "unlink", "rmdir", "symlink", "link", "fsync", "chmod", "chown")
_lock = threading.Lock()
_count = 0


def _strike(what: str) -> None:
    global _count
    try:
        with open(_FILE) as file:
            limit = int(file.read() or 0)
    except FileNotFoundError:
        _count = 0
        return
    with _lock:
        _count += 1
        if _count == limit:
            with open(f"{_FILE}.at", "w") as file:
                file.write(what)
            os.kill(os.getpid(), signal.SIGKILL)


def _counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        _strike(f"{name} {arguments[:1]}")
        return call(*arguments, **named)

    return counted


class _Connection(sqlite3.Connection):
    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if not statement.startswith(("SELECT", "PRAGMA")):
            _strike(statement)
        return super().execute(statement, *values)


class _Socket(socket.socket):
    def sendmsg(self, *arguments: Any) -> int:
        _strike(f"sendmsg {self.family.name}")
        return super().sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        _strike(f"sendto {self.family.name}")
        return super().sendto(*arguments)


def main() -> int:
    for name in _CALLS:
        setattr(os, name, _counted(name, getattr(os, name)))
    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **named: connect(*arguments, factory=_Connection, **named)  # type: ignore[assignment, misc]
    socket.socket = _Socket  # type: ignore[misc]
    from wherry import daemon

    return daemon.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
