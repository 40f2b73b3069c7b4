"""The files of one log, from the oldest to the newest: found, opened, and read from a place on, packed ones too.

Files are renamed and packed while they are read. So they are told apart by what they are, never by name: a plain one by its inode, a
packed one also by the inode of the file it was made from, which ``runtime/logfile.py`` notes in its header.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from typing import Protocol

from isal import isal_zlib

from wherry.containers.log_entries import BLOCK, Format, padded

_ATTEMPTS = 50
_GZIP = 31  # window bits that mean a gzip header
_DAMAGED: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub says otherwise


class Segment:
    """One open file of a log.  ``read`` gives what follows; b"" at its end for now."""

    def __init__(self, fd: int) -> None:
        facts = os.fstat(fd)
        self._fd = fd
        self.inode = facts.st_ino
        self.made_from = -1

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> bytes:
        return os.read(self._fd, BLOCK)

    def is_same_as(self, other: Segment) -> bool:
        return self.inode in (other.inode, other.made_from)

    def seek_tail(self, form: Format, count: int) -> int:
        """Go to the last ``count`` entries; how many they are."""
        size = os.fstat(self._fd).st_size
        found = form.tail(self._fd, size, count)
        if found is None:  # torn, or being written just now
            return self._seek_tail_from_start(form, count)
        os.lseek(self._fd, found[0], os.SEEK_SET)
        return found[1]

    def seek_since(self, form: Format, at: str) -> bool:
        """Go to where entries from ``at`` on may begin; False when there are none."""
        size = os.fstat(self._fd).st_size
        position = form.since(self._fd, size, at)
        os.lseek(self._fd, position, os.SEEK_SET)
        return position < size

    def _rewind(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)

    def _seek_tail_from_start(self, form: Format, count: int) -> int:
        total = sum(number for _, number in _passes(self, form, -1))
        self._rewind()
        wanted = min(count, total)
        position = sum(length for length, _ in _passes(self, form, total - wanted))
        self._rewind()
        self._skip(position)
        return wanted

    def _skip(self, length: int) -> None:
        os.lseek(self._fd, length, os.SEEK_SET)


class PackedSegment(Segment):
    """A rotated file as gzip."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._last, self.made_from = _noted(fd)
        self._unpacker = isal_zlib.decompressobj(_GZIP)
        self._skipped = 0  # bytes that are not wanted

    def read(self) -> bytes:
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or os.read(self._fd, BLOCK)
            try:
                data: bytes = self._unpacker.decompress(packed, BLOCK)
            except _DAMAGED:
                break
            if not data and not packed:
                break  # cut short: what there is counts
            wanted = data[self._skipped :]
            self._skipped = max(0, self._skipped - len(data))
            if wanted:
                return wanted
        return b""

    def is_same_as(self, other: Segment) -> bool:
        return isinstance(other, PackedSegment) and self.inode == other.inode

    def seek_tail(self, form: Format, count: int) -> int:
        return self._seek_tail_from_start(form, count)

    def seek_since(self, form: Format, at: str) -> bool:
        return not self._last or self._last >= at

    def _rewind(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._unpacker = isal_zlib.decompressobj(_GZIP)
        self._skipped = 0

    def _skip(self, length: int) -> None:
        self._skipped = length


class Files(Protocol):
    """Whatever gives chunks of a file in order."""

    def read(self) -> bytes: ...


def _passes(file: Files, form: Format, count: int) -> Iterator[tuple[int, int]]:
    """Bytes and number of the whole entries in each chunk, up to ``count`` of them; -1 for all."""
    torn = b""
    while count and (data := file.read()):
        torn += data
        length, number, damaged = form.ends(torn, count)
        yield length, number
        torn = torn[length:]
        count -= number if count > 0 else 0
        if damaged or len(torn) > form.entry_limit:
            return


def open_all(path: str) -> list[Segment]:
    """All files of the log there are, oldest first.  The caller closes them."""
    for _ in range(_ATTEMPTS):
        found = _open_each(path)
        if found is not None:
            return found
    return _open_each(path, whatever_happens=True) or []  # it rotates faster than we can look


def successors(path: str, last: Segment) -> list[Segment]:
    """The files after ``last``: none while it is still the newest, all when it is among them no more."""
    try:
        if os.stat(path).st_ino == last.inode:
            return []
    except FileNotFoundError:
        return []
    segments = open_all(path)
    place = max((index for index, segment in enumerate(segments) if last.is_same_as(segment)), default=-1)
    for segment in segments[: place + 1]:
        segment.close()
    return segments[place + 1 :]


def _open_each(path: str, *, whatever_happens: bool = False) -> list[Segment] | None:
    """None when a rotation came between, unless that does not matter: then each file that could be caught, once."""
    before = _listing(path)
    found: list[Segment] = []
    for name, _ in before:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        found.append(PackedSegment(fd) if name.endswith(".gz") else Segment(fd))
    if _listing(path) == before and [segment.inode for segment in found] == [inode for _, inode in before]:
        return found
    if whatever_happens:
        newest = {segment.inode: segment for segment in found}
        for segment in found:
            if newest[segment.inode] is not segment:
                segment.close()
        return list(newest.values())
    for segment in found:
        segment.close()
    return None


def _listing(path: str) -> list[tuple[str, int]]:
    """Names and inodes, oldest first.  A number may be left out where a monitor died while it rotated.

    Where a file stands plain and packed, the packing has just ended: the plain one counts.
    """
    folder, base = os.path.split(path)
    numbered = re.compile(re.escape(base) + r"(?:\.([0-9]{1,9})(\.gz)?)?")
    found: dict[int, tuple[str, int]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = numbered.fullmatch(entry.name)
                if match is None:
                    continue
                number = int(match[1] or 0)
                if number not in found or not match[2]:
                    found[number] = (entry.path, entry.inode())
    except FileNotFoundError:
        return []
    return [found[number] for number in sorted(found, reverse=True)]


def _noted(fd: int) -> tuple[str, int]:
    """From a gzip header: when the last entry was written, and the inode of what was packed; "" and -1 where it does not say."""
    head = os.pread(fd, 12, 0)
    if len(head) < 12 or head[:2] != b"\x1f\x8b" or not head[3] & 4:
        return "", -1
    (size,) = struct.unpack("<H", head[10:12])
    try:
        noted = json.loads(os.pread(fd, size, 12))
        last, inode = noted.get("lastTime", ""), noted.get("inode", -1)
    except (ValueError, AttributeError):
        return "", -1
    return padded(last) if isinstance(last, str) and last.endswith("Z") else "", inode if isinstance(inode, int) else -1
