"""What exists: bodies by kind and ident, and names that lead to idents, in one SQLite database.

A thing exists when its row is committed. Bodies are opaque here: each room encodes its own.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_VERSION = 1
_PAGE_BYTES = 4096
_CHECKPOINT_PAGES = 100
_ROOM_PAGES = 200  # of the log: up to a checkpoint, and what one transaction may add to it
_ERRNO = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO, sqlite3.SQLITE_READONLY: errno.EROFS}
_SCHEMA = """
CREATE TABLE item (kind TEXT NOT NULL, ident TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, ident)) WITHOUT ROWID;
CREATE TABLE name (kind TEXT NOT NULL, name TEXT NOT NULL, ident TEXT NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
"""


class NameTaken(ValueError):
    """``name`` already belongs to the ident ``holder``."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"name {name!r} is taken by {holder}")
        self.name = name
        self.holder = holder


class Records:
    """One connection, usable from any thread; a transaction keeps the other threads out until it ends.

    A write outside a transaction is durable when the call returns. Never await inside a transaction.

    What is not durable yet survives the daemon, not a power cut; it becomes durable with the next write that is, never later than that
    one and never out of order: the log has one end.
    """

    def __init__(self, path: str) -> None:
        """Open or create the database at ``path``.  Raises ValueError when a newer Wherry wrote it."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        self._path = path
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._prepare(path)
            self._take_room()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All writes inside happen together or, when the block raises, not at all.

        The outermost commits, and says whether that is ``durable``; an inner one that raises undoes only its own writes.
        """
        with self._lock:
            level = self._depth
            if not level:
                self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._execute(f"SAVEPOINT level{level}" if level else "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                self._execute(f"RELEASE level{level}" if level else "COMMIT")
            except BaseException:
                if level:
                    self._connection.execute(f"ROLLBACK TO level{level}")
                    self._connection.execute(f"RELEASE level{level}")
                elif self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def put(self, kind: str, ident: str, body: bytes) -> None:
        """Insert or replace."""
        self._write("INSERT OR REPLACE INTO item VALUES (?, ?, ?)", kind, ident, body)

    def get(self, kind: str, ident: str) -> bytes | None:
        body: bytes | None = self._one("SELECT body FROM item WHERE kind = ? AND ident = ?", kind, ident)
        return body

    def delete(self, kind: str, ident: str) -> None:
        """Remove; an absent one is success. Names that lead to it stay: release them in the same transaction."""
        self._write("DELETE FROM item WHERE kind = ? AND ident = ?", kind, ident)

    def items(self, kind: str) -> list[tuple[str, bytes]]:
        """Every (ident, body), in order of ident."""
        return self._all("SELECT ident, body FROM item WHERE kind = ? ORDER BY ident", kind)

    def claim(self, kind: str, name: str, ident: str) -> None:
        """Take ``name`` for ``ident``; taking it twice for the same one is success.  Raises NameTaken."""
        with self.transaction():
            holder = self.resolve(kind, name)
            if holder is None:
                self.name(kind, name, ident)
            elif holder != ident:
                raise NameTaken(name, holder)

    def name(self, kind: str, name: str, ident: str) -> str | None:
        """Set or move ``name``; return the former holder."""
        with self.transaction():
            former = self.resolve(kind, name)
            if former != ident:
                self._write("INSERT OR REPLACE INTO name VALUES (?, ?, ?)", kind, name, ident)
            return former

    def release(self, kind: str, name: str) -> None:
        """Give ``name`` up; an absent one is success."""
        self._write("DELETE FROM name WHERE kind = ? AND name = ?", kind, name)

    def resolve(self, kind: str, name: str) -> str | None:
        ident: str | None = self._one("SELECT ident FROM name WHERE kind = ? AND name = ?", kind, name)
        return ident

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Every (name, ident), in order of name."""
        return self._all("SELECT name, ident FROM name WHERE kind = ? ORDER BY name", kind)

    def _prepare(self, path: str) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise ValueError(f"{path} was written by a newer version of Wherry (records version {version}, known: {_VERSION})")
        if version == 0:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def _take_room(self) -> None:
        """Let the files have what small writes need, so that an end can be recorded and things removed when the disk is full.

        The log keeps its length and is written from its start again after a checkpoint; the database keeps its free pages.
        """
        with suppress(OSError):  # the disk is full already: the daemon serves all the same
            self._execute("INSERT OR REPLACE INTO item VALUES ('room', '', zeroblob(?))", _ROOM_PAGES * _PAGE_BYTES)
            self._execute("DELETE FROM item WHERE kind = 'room'")

    def _write(self, statement: str, *values: str | bytes) -> None:
        with self._lock:
            if self._depth:
                self._execute(statement, *values)
                return
            with self.transaction():
                self._execute(statement, *values)

    def _execute(self, statement: str, *values: str | bytes | int) -> None:
        """Raises OSError where the disk is full or broken."""
        try:
            self._connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            number = _ERRNO.get(error.sqlite_errorcode & 0xFF)
            if number is None:
                raise
            raise OSError(number, os.strerror(number), self._path) from error

    def _one(self, statement: str, *values: str) -> Any:
        with self._lock:
            row = self._connection.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def _all(self, statement: str, *values: str) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()
