"""A second copy of the records: every transaction as it was committed, with a checksum, in one file beside the database.

It is written after the commit and never waited for, so it may end early; the database may be damaged or cut back to an earlier state. The
number of the last transaction, which both hold, tells which of the two knows more.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

log = logging.getLogger(__name__)
_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows
_GROWTH = 4  # the file is written anew when it is so many times what it began with
_SMALL = 4 << 20
_ROOM = 256 << 10  # taken ahead, so that a full disk does not end it


class Change(msgspec.Struct, frozen=True, array_like=True):
    """``table``: item or name; ``value`` None: the row went."""

    table: str
    kind: str
    key: str
    value: bytes | None


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    number: int
    changes: list[Change]


@dataclass(slots=True)
class Told:
    """What a journal holds: the number of its last transaction, all rows, and the changes after any number.

    ``whole``: whether it could be read to its end, which is at ``size_bytes``.
    """

    number: int = 0
    rows: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    whole: bool = True
    size_bytes: int = 0
    entries: list[_Entry] = field(default_factory=list)

    def after(self, number: int) -> list[Change]:
        return [change for entry in self.entries if entry.number > number for change in entry.changes]

    def history(self, table: str, kind: str, key: str) -> Iterator[Change]:
        """What a row was, the latest first."""
        for entry in reversed(self.entries):
            for change in reversed(entry.changes):
                if (change.table, change.kind, change.key) == (table, kind, key):
                    yield change


def read(path: str) -> Told | None:
    """None when there is none, or nothing of it can be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    told = Told()
    decoder = msgspec.msgpack.Decoder(_Entry)
    position = 0
    while position < len(data):
        start = position + _HEAD.size
        if start > len(data):
            break
        length, checksum = _HEAD.unpack_from(data, position)
        body = data[start : start + length]
        if not body or len(body) != length or zlib.crc32(body) != checksum:
            break
        entry = decoder.decode(body)
        told.entries.append(entry)
        told.number = entry.number
        for change in entry.changes:
            key = (change.table, change.kind, change.key)
            if change.value is None:
                told.rows.pop(key, None)
            else:
                told.rows[key] = change.value
        position = start + length
    told.whole = not any(data[position : position + _HEAD.size]) and not data[position:].strip(b"\0")
    told.size_bytes = position
    return told if told.entries else None


class Journal:
    """Appends.  It never fails: where it can't be written it stays as it is, until it is begun anew."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self._room = 0
        self._begun = 0

    def begin(self, number: int, rows: Iterable[Change]) -> None:
        """Write a new one that holds ``rows``."""
        self.close()
        body = _packed(number, list(rows))
        fresh = f"{self._path}.new"
        try:
            with open(fresh, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(body)
            os.rename(fresh, self._path)
        except OSError as error:
            self._give_up(error)
            with suppress(FileNotFoundError):
                os.unlink(fresh)
            return
        self._begun = len(body)
        self.resume(len(body))

    def resume(self, size: int) -> None:
        """Go on with the one that is there, behind its first ``size`` bytes."""
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            self._size = size
            self._take_room()
        except OSError as error:
            self._give_up(error)
        self._begun = self._begun or size

    def append(self, number: int, changes: Sequence[Change]) -> None:
        if self._fd < 0:
            return
        body = _packed(number, list(changes))
        try:
            if self._size + len(body) > self._room:
                self._take_room(len(body))
            if os.pwrite(self._fd, body, self._size) != len(body):
                raise OSError(f"{self._path}: written in part")
        except OSError as error:
            self._give_up(error)
            return
        self._size += len(body)

    @property
    def is_long(self) -> bool:
        """Whether it should begin anew."""
        return self._size > max(_SMALL, _GROWTH * self._begun)

    @property
    def is_kept(self) -> bool:
        return self._fd >= 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_room(self, size: int = 0) -> None:
        os.posix_fallocate(self._fd, self._size, size + _ROOM)
        self._room = self._size + size + _ROOM

    def _give_up(self, error: OSError) -> None:
        log.warning("the records' second copy can't be written: %s", error)
        self.close()


def _packed(number: int, changes: list[Change]) -> bytes:
    body = msgspec.msgpack.encode(_Entry(number, changes), enc_hook=str)  # a key may be a Digest
    return _HEAD.pack(len(body), zlib.crc32(body)) + body
