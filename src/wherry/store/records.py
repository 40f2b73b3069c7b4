"""What exists: bodies by kind and ident, and names that lead to idents, in one SQLite database.

A thing exists when its row is committed. Bodies are opaque here: each room encodes its own. A journal holds a second copy, from which a
damaged database is mended at start.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from wherry.store import journal, unreadable
from wherry.store.journal import Change, Journal
from wherry.store.unreadable import Checks

log = logging.getLogger(__name__)
_VERSION = 1
_PAGE_BYTES = 4096
_CHECKPOINT_PAGES = 100
_COPY_AGAIN = 64  # after so many transactions a journal that could not be written is begun anew
_ROOM_PAGES = 200  # of the log: up to a checkpoint, and what one transaction may add to it
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
}
_UNREADABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
Watcher = Callable[[str | None, bytes | None], object]
_SEQUENCE = "sequence"  # the kind of the row with the number of the last transaction
_TABLES = {"item": ("ident", "body"), "name": ("name", "ident")}
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

    def __init__(self, path: str, checks: Checks = MappingProxyType({})) -> None:
        """Open or create the database at ``path``.  Raises ValueError when a newer Wherry wrote it.

        What was damaged is mended from the journal, and said in ``mended``. ``is_new``: nothing was there to read, for whatever reason.
        Rows that do not pass ``checks`` are set aside (``unreadable``).
        """
        self._lock = threading.RLock()
        self._depth = 0
        self._is_open = False  # before that, a damaged database is mended
        self._path = path
        self._changes: list[Change] = []
        self._held: dict[str, dict[str, str]] = {}  # the names of each kind that was asked for, and what they lead to
        self._watchers: dict[str, list[Watcher]] = {}
        self._journal = Journal(f"{path.removesuffix('.db')}.journal")
        self.mended: list[str] = []
        told = journal.read(f"{path.removesuffix('.db')}.journal")
        existed = os.path.exists(path)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if (number := _ERRNO.get(error.sqlite_errorcode & 0xFF)) is not None:
                raise OSError(number, os.strerror(number), path) from error
            self._set_aside(error)
            existed = False
        self.is_new = told is None and not existed
        try:
            self._number = self._stored_number()
            self._mend(told, existed=existed)
            if told is not None and not existed:
                unreadable.doubt(self)
            for text in unreadable.set_aside(self, told, checks, os.path.dirname(path)):
                log.warning("%s", text)
                self.mended.append(text)
            self._take_room()
        except BaseException:
            self.close()
            raise
        self._is_open = True

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._journal.close()

    def watch(self, kind: str, changed: Watcher) -> None:
        """Tell ``changed`` of every row of ``kind`` that is written: ident and body (None: deleted); ident None: writes were undone."""
        self._watchers.setdefault(kind, []).append(changed)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """No other thread is within a transaction meanwhile."""
        with self._lock:
            yield

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All writes inside happen together or, when the block raises, not at all.

        The outermost commits, and says whether that is ``durable``; an inner one that raises undoes only its own writes.
        """
        with self._lock:
            level = self._depth
            known = len(self._changes)
            if not level:
                self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._execute(f"SAVEPOINT level{level}" if level else "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if not level and self._changes:
                    self._count()
                self._execute(f"RELEASE level{level}" if level else "COMMIT")
            except BaseException:
                undone = {change.kind for change in self._changes[known:]}
                del self._changes[known:]
                if level:
                    self._connection.execute(f"ROLLBACK TO level{level}")
                    self._connection.execute(f"RELEASE level{level}")
                elif self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                for kind in undone:
                    self._held.pop(kind, None)
                    self._tell(kind, None, None)
                raise
            finally:
                self._depth -= 1
            if not level and self._changes:
                self._keep()

    def put(self, kind: str, ident: str, body: bytes) -> None:
        """Insert or replace."""
        self._write("INSERT OR REPLACE INTO item VALUES (?, ?, ?)", Change("item", kind, ident, body))

    def get(self, kind: str, ident: str) -> bytes | None:
        body: bytes | None = self._one("SELECT CAST(body AS BLOB) FROM item WHERE kind = ? AND ident = ?", kind, ident)
        return body

    def delete(self, kind: str, ident: str) -> None:
        """Remove; an absent one is success. Names that lead to it stay: release them in the same transaction."""
        self._write("DELETE FROM item WHERE kind = ? AND ident = ?", Change("item", kind, ident, None))

    def items(self, kind: str) -> list[tuple[str, bytes]]:
        """Every (ident, body), in order of ident."""
        return self._all("SELECT ident, CAST(body AS BLOB) FROM item WHERE kind = ? ORDER BY ident", kind)

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
                self._write("INSERT OR REPLACE INTO name VALUES (?, ?, ?)", Change("name", kind, name, ident.encode()))
            return former

    def release(self, kind: str, name: str) -> None:
        """Give ``name`` up; an absent one is success."""
        self._write("DELETE FROM name WHERE kind = ? AND name = ?", Change("name", kind, name, None))

    def resolve(self, kind: str, name: str) -> str | None:
        """What ``name`` leads to.  Asked for several times in every request, so all names of the kind stay in memory."""
        with self._lock:
            held = self._held.get(kind)
            if held is None:
                held = self._held[kind] = dict(self.names(kind))
            return held.get(name)

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Every (name, ident), in order of name."""
        return self._all("SELECT name, ident FROM name WHERE kind = ? ORDER BY name", kind)

    def kinds(self) -> list[str]:
        """Of items, in order."""
        return [kind for (kind,) in self._all("SELECT DISTINCT kind FROM item WHERE kind != ? ORDER BY kind", _SEQUENCE)]

    @property
    def has_second_copy(self) -> bool:
        return self._journal.is_kept

    def copy_again(self) -> None:
        """Begin a new journal."""
        with self._lock:
            self._begin_journal()

    def damage(self) -> list[str]:
        """What SQLite finds wrong in the file, now."""
        try:
            found = [text for (text,) in self._all("PRAGMA quick_check(20)")]
        except (sqlite3.DatabaseError, OSError) as error:
            if not self._is_open and isinstance(error, OSError):
                raise  # not the file is damaged but the disk
            return [str(error)]
        return [] if found == ["ok"] else found

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._prepare(self._path)
            if found := self.damage():
                raise _damaged("; ".join(found))
            self._rows()
        except BaseException:
            self._connection.close()
            raise

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """A database that can't be read is kept for who wants to look at it; a new one takes its place."""
        aside = f"{self._path}.damaged-{time.time_ns()}"
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.rename(self._path + end, aside + end)
        log.error("%s is damaged (%s): it is kept as %s", self._path, error, aside)
        self.mended.append(f"{os.path.basename(self._path)} was damaged ({error}): it is kept as {os.path.basename(aside)}")
        self._open()

    def _mend(self, told: journal.Told | None, *, existed: bool) -> None:
        """Bring in what only the journal knows, and begin a new journal where it knows less.

        A row that differs though both ends are the same was damaged on the disk: the journal has a checksum.
        """
        rows = self._rows()
        if told is not None and (told.whole or not existed):
            if told.number > self._number or not existed:
                changes = told.after(self._number) if existed else [Change(*key, value) for key, value in told.rows.items()]
                self._restore(changes, told.number, "is newer in the journal")
            elif told.number == self._number and rows != told.rows:
                gone = [Change(*key, None) for key in rows.keys() - told.rows.keys()]
                other = [Change(*key, value) for key, value in told.rows.items() if rows.get(key) != value]
                self._restore([*gone, *other], told.number, "was damaged")
        if told is not None and told.whole and told.number == self._number:
            self._journal.resume(told.size_bytes)
        else:
            self._begin_journal()

    def _restore(self, changes: list[Change], number: int, why: str) -> None:
        with self.transaction():
            for change in changes:
                self._put_row(change)
            self._number = max(self._number, number) - 1  # the transaction itself counts one
            self._changes = changes or [Change("item", "none", "", None)]
        for change in changes:
            text = f"record {change.kind} {change.key} {why}: restored"
            log.warning("%s", text)
            self.mended.append(text)
        self._begin_journal()

    def _put_row(self, change: Change) -> None:
        key, value = _TABLES[change.table]
        if change.value is None:
            self._execute(f"DELETE FROM {change.table} WHERE kind = ? AND {key} = ?", change.kind, change.key)
            return
        body: str | bytes = change.value if change.table == "item" else change.value.decode()
        self._execute(f"INSERT OR REPLACE INTO {change.table} (kind, {key}, {value}) VALUES (?, ?, ?)", change.kind, change.key, body)

    def _rows(self) -> dict[tuple[str, str, str], bytes]:
        items = self._all("SELECT kind, ident, CAST(body AS BLOB) FROM item WHERE kind != ?", _SEQUENCE)
        names = self._all("SELECT kind, name, ident FROM name")
        found = {("item", kind, ident): body for kind, ident, body in items}
        return found | {("name", kind, name): ident.encode() for kind, name, ident in names}

    def _stored_number(self) -> int:
        body = self.get(_SEQUENCE, "")
        return int(body) if body is not None and body.isdigit() else 0

    def _count(self) -> None:
        self._execute("INSERT OR REPLACE INTO item VALUES (?, '', ?)", _SEQUENCE, b"%d" % (self._number + 1))

    def _keep(self) -> None:
        """After a commit."""
        self._number += 1
        changes, self._changes = self._changes, []
        self._journal.append(self._number, changes)
        if self._journal.is_long or (not self._journal.is_kept and self._number % _COPY_AGAIN == 0):
            self._begin_journal()

    def _begin_journal(self) -> None:
        self._journal.begin(self._number, [Change(*key, value) for key, value in self._rows().items()])

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

    def _write(self, statement: str, change: Change) -> None:
        values = [change.kind, change.key]
        with self._lock:
            if not self._depth:
                with self.transaction():
                    self._write(statement, change)
                return
            if change.value is None:
                self._execute(statement, *values)
            else:
                self._execute(statement, *values, change.value if change.table == "item" else change.value.decode())
            self._changes.append(change)
            if change.table == "item":
                self._tell(change.kind, change.key, change.value)
            elif (held := self._held.get(change.kind)) is not None:
                if change.value is None:
                    held.pop(change.key, None)
                else:
                    held[change.key] = change.value.decode()

    def _tell(self, kind: str, ident: str | None, body: bytes | None) -> None:
        for changed in self._watchers.get(kind, ()):
            changed(ident, body)

    def _execute(self, statement: str, *values: str | bytes | int) -> None:
        """Raises OSError where the disk is full or broken."""
        try:
            self._connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise self._told(error) from error

    def _one(self, statement: str, *values: str) -> Any:
        rows = self._all(statement, *values)
        return rows[0][0] if rows else None

    def _all(self, statement: str, *values: str) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._told(error) from error

    def _told(self, error: sqlite3.DatabaseError) -> Exception:
        """As an OSError where the disk is full or broken; what is damaged before it is open is mended, and so stays what it is."""
        code = error.sqlite_errorcode & 0xFF
        if (number := _ERRNO.get(code)) is not None:
            return OSError(number, os.strerror(number), self._path)
        if self._is_open and code in _UNREADABLE:
            return OSError(errno.EIO, str(error), self._path)
        return error


def _damaged(text: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
