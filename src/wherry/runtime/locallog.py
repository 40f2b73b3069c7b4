"""A container's log in the format of Docker's ``local`` driver: protobuf entries between two copies of their length.

An entry is ``length, LogEntry, length``, the lengths four bytes, big-endian. LogEntry: 1 source, 2 time_nano, 3 line (without its newline),
4 partial, 5 {1 last, 2 id, 3 ordinal}. A line of 16 KiB and more becomes several partial entries with one id; only one marked as the last
had a newline. Source: Docker's local log driver, its protobuf definition and its files.
"""

from __future__ import annotations

import os
import struct

from wherry.runtime.eventloop import EventLoop
from wherry.runtime.logfile import Layout, Limits, LogFile

LINE_LIMIT = 16 << 10
ENTRY_LIMIT = 1 << 20  # no entry comes near it: a greater length is damage
_LENGTH = struct.Struct(">I")
_BLOCK = 256 << 10
_SOURCE = {"stdout": b"\x0a\x06stdout\x10", "stderr": b"\x0a\x06stderr\x10"}


class LocalLog:
    """Writes the output of one container."""

    def __init__(self, path: str, limits: Limits, *, loop: EventLoop | None = None) -> None:
        self._file = LogFile(path, LAYOUT, limits, loop)
        self._rest = {"stdout": b"", "stderr": b""}
        self._long: dict[str, tuple[bytes, int]] = {}  # stream -> (id, pieces so far) of a line that goes on

    def write(self, stream: str, data: bytes, now_ns: int) -> None:
        """Log what was read; an unfinished line waits for its end, less than 16 KiB of it."""
        lines = (self._rest[stream] + data).split(b"\n")
        rest = lines.pop()
        heads = _Heads(_SOURCE[stream] + varint(now_ns))
        entries: list[bytes] = []
        if lines and (stream in self._long or max(map(len, lines)) >= LINE_LIMIT):
            for line in lines:
                entries.append(self._finished(stream, line, heads))
        else:
            for line in lines:
                head, foot = heads[len(line)]
                entries += (head, line, foot)
        while len(rest) >= LINE_LIMIT:
            entries.append(self._piece(stream, rest[:LINE_LIMIT], heads, last=False))
            rest = rest[LINE_LIMIT:]
        self._rest[stream] = rest
        if entries:
            self._file.append(b"".join(entries), now_ns)

    def finish(self, now_ns: int) -> None:
        """Write the unfinished lines as they are, and close."""
        for stream, rest in self._rest.items():
            if rest:
                heads = _Heads(_SOURCE[stream] + varint(now_ns))
                self._file.append(self._piece(stream, rest, heads, last=False), now_ns)
        self._file.close()

    def _finished(self, stream: str, line: bytes, heads: _Heads) -> bytes:
        pieces = []
        while len(line) >= LINE_LIMIT:
            pieces.append(self._piece(stream, line[:LINE_LIMIT], heads, last=False))
            line = line[LINE_LIMIT:]
        if stream in self._long:
            return b"".join([*pieces, self._piece(stream, line, heads, last=True)])
        head, foot = heads[len(line)]
        return head + line + foot

    def _piece(self, stream: str, line: bytes, heads: _Heads, *, last: bool) -> bytes:
        ident, ordinal = self._long.pop(stream, (b"", 0))
        if not ident:
            ident = os.urandom(32).hex().encode()
        ordinal += 1
        if not last:
            self._long[stream] = (ident, ordinal)
        about = (b"\x08\x01" if last else b"") + b"\x12\x40" + ident + b"\x18" + varint(ordinal)
        return frame(heads.prefix + _line_field(len(line)) + line + b"\x20\x01\x2a" + varint(len(about)) + about)


class _Heads(dict[int, tuple[bytes, bytes]]):
    """What stands before and after a line of so many bytes, for one stream and time."""

    def __init__(self, prefix: bytes) -> None:
        super().__init__()
        self.prefix = prefix

    def __missing__(self, size: int) -> tuple[bytes, bytes]:
        start = self.prefix + _line_field(size)
        length = _LENGTH.pack(len(start) + size)
        made = self[size] = (length + start, length)
        return made


def frame(body: bytes) -> bytes:
    length = _LENGTH.pack(len(body))
    return length + body + length


def varint(number: int) -> bytes:
    """``number``, not negative, as protobuf writes it."""
    if number < 0x80:
        return bytes((number,))
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _line_field(size: int) -> bytes:
    return b"\x1a" + varint(size) if size else b""


def entry_ends(data: bytes | bytearray, start: int = 0) -> tuple[list[int], bool]:
    """Where each whole entry of ``data`` ends; and whether what follows can be no entry, however it goes on."""
    ends: list[int] = []
    unpack, total = _LENGTH.unpack_from, len(data)
    while start + 4 <= total:
        (length,) = unpack(data, start)
        end = start + length + 8
        if length > ENTRY_LIMIT:
            return ends, True
        if end > total:
            break
        if data[end - 4 : end] != data[start : start + 4]:
            return ends, True
        ends.append(end)
        start = end
    return ends, False


def _split(entries: bytes) -> list[bytes]:
    ends, _ = entry_ends(entries)
    return [entries[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _whole(fd: int, size: int) -> int:
    """Where the whole entries end: as a rule at the end, or all are looked at, from the start."""
    if _ends_well(fd, size):
        return size
    position = 0
    while position < size:
        ends, damaged = entry_ends(os.pread(fd, ENTRY_LIMIT + _BLOCK, position))
        position += ends[-1] if ends else 0
        if damaged or not ends:
            break
    return position


def _ends_well(fd: int, size: int) -> bool:
    if size < 8:
        return size == 0
    foot = os.pread(fd, 4, size - 4)
    start = size - 8 - _LENGTH.unpack(foot)[0]
    return start >= 0 and os.pread(fd, 4, start) == foot


LAYOUT = Layout(split=_split, whole=_whole)
