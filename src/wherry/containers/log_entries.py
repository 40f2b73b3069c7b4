"""Entries of a log file, as the json-file and the local driver write them: where they end, and what they say.

``runtime/jsonlog.py`` and ``runtime/locallog.py`` are the other side. Nothing torn or damaged becomes an entry.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec

from wherry.runtime.locallog import ENTRY_LIMIT, entry_ends

BLOCK = 1 << 18
STREAMS = {"stdout": 1, "stderr": 2}
_BISECTED = 64 << 10  # what is left to be read through when the place of a time was found
_LENGTH = struct.Struct(">I")
_USUAL = {b"\x0a\x06stdout\x10": 1, b"\x0a\x06stderr\x10": 2}


class Decoded(NamedTuple):
    """One entry.  ``at``: its time as ``stamp`` writes it; ``body``: the text as the container wrote it."""

    stream: int
    at: str
    attributes: Mapping[str, str]
    body: bytes


class Format(Protocol):
    """How a driver's entries stand in its files.  Positions are bytes from a file's start; a file may be torn at its end."""

    entry_limit: int  # bytes without an entry's end that are damage

    def ends(self, data: bytes, count: int = -1) -> tuple[int, int, bool]:
        """Of ``data``, which starts with an entry: bytes of its first ``count`` whole entries, their number, and whether damage follows."""

    def bodies(self, data: bytes) -> list[tuple[int, bytes]]:
        """Stream and text of each of the whole entries that ``data`` is."""

    def decoded(self, data: bytes) -> Iterator[Decoded]:
        """`bodies` with all there is to know."""

    def tail(self, fd: int, size: int, count: int) -> tuple[int, int] | None:
        """Where the last ``count`` entries begin, and how many they are; None when the end is torn, so that only reading all can tell."""

    def since(self, fd: int, size: int, at: str) -> int:
        """A position at an entry, at or not far before the first one from ``at`` on.  Times are taken to be in order."""


def stamp(at_ns: int) -> str:
    """Nanoseconds as ``2026-11-21T00:58:26.284222613``: always nine digits, so that text order is time order."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}"


def padded(rfc3339: str) -> str:
    """A log line's time, whose trailing zeros were trimmed, in the form of ``stamp``."""
    text = rfc3339.removesuffix("Z")
    return text.ljust(29, "0") if "." in text else text + ".000000000"


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


_decode_many = msgspec.json.Decoder(list[_Line]).decode
_decode_one = msgspec.json.Decoder(_Line).decode


class JsonEntries:
    """``{"log":..., "stream":..., "attrs":{...}, "time":...}``, one a line.  A foreign line is passed over, as Docker does."""

    entry_limit = 8 << 20  # labels are as long as their owner likes

    def ends(self, data: bytes, count: int = -1) -> tuple[int, int, bool]:
        if count < 0:
            end = data.rfind(b"\n") + 1
            return end, data.count(b"\n", 0, end), False
        end = found = 0
        while found < count and (newline := data.find(b"\n", end)) >= 0:
            end, found = newline + 1, found + 1
        return end, found, False

    def bodies(self, data: bytes) -> list[tuple[int, bytes]]:
        return [(STREAMS.get(line.stream, 1), line.log.encode()) for line in _parse(data)]

    def decoded(self, data: bytes) -> Iterator[Decoded]:
        for line in _parse(data):
            yield Decoded(STREAMS.get(line.stream, 1), padded(line.time), line.attrs or {}, line.log.encode())

    def tail(self, fd: int, size: int, count: int) -> tuple[int, int] | None:
        if count <= 0 or not size:
            return size, 0
        position, found, end = size, 0, -1
        while position > 0:
            step = min(BLOCK, position)
            block = os.pread(fd, step, position - step)
            if end < 0:  # the last line end closes the last entry: what is behind it is torn
                end = block.rfind(b"\n")
            else:
                end = len(block)
            while end >= 0 and (newline := block.rfind(b"\n", 0, end)) >= 0:
                found += 1
                if found == count:
                    return position - step + newline + 1, found
                end = newline
            position -= step
        return (0, found + 1) if end >= 0 else (size, 0)

    def since(self, fd: int, size: int, at: str) -> int:
        low, high = 0, size
        while high - low > _BISECTED:
            middle = (low + high) // 2
            place = self._entry_after(fd, middle, high)
            if place is None:
                high = middle
            elif place[1] < at:
                low = place[0]
            else:
                high = middle
        return low

    def _entry_after(self, fd: int, position: int, limit: int) -> tuple[int, str] | None:
        """The first entry that begins after ``position`` and before ``limit``, and its time."""
        data = b""
        while position + len(data) < limit and len(data) < self.entry_limit:
            data += os.pread(fd, _BISECTED, position + len(data))
            start = data.find(b"\n") + 1
            while start and (end := data.find(b"\n", start)) >= 0:
                if position + start >= limit:
                    return None
                try:
                    return position + start, padded(_decode_one(data[start:end]).time)
                except msgspec.DecodeError:
                    start = end + 1
        return None


def _parse(lines: bytes) -> list[_Line]:
    try:
        return _decode_many(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]")
    except msgspec.DecodeError:
        entries = []
        for line in lines.splitlines():
            try:
                entries.append(_decode_one(line))
            except msgspec.DecodeError:
                continue
        return entries


class LocalEntries:
    """Protobuf between two copies of its length: see ``runtime/locallog.py``."""

    entry_limit = ENTRY_LIMIT + 8

    def ends(self, data: bytes, count: int = -1) -> tuple[int, int, bool]:
        ends, damaged = entry_ends(data)
        if 0 <= count < len(ends):
            ends, damaged = ends[:count], False
        return ends[-1] if ends else 0, len(ends), damaged

    def bodies(self, data: bytes) -> list[tuple[int, bytes]]:
        ends, _ = entry_ends(data)
        found, start = [], 0
        for end in ends:
            # the usual entry: a source of six letters, a time of nine bytes, a line, and nothing after it
            number = _USUAL.get(data[start + 4 : start + 13], 0)
            if number and end - start > 30 and data[start + 22] == 0x1A and data[start + 21] < 0x80:
                size, at = data[start + 23], start + 24
                if size >= 0x80:
                    size, at = size & 0x7F | data[at] << 7, at + 1
                if at + size == end - 4:
                    found.append((number, data[at : end - 4] + b"\n"))
                    start = end
                    continue
            if (entry := _local_entry(data[start + 4 : end - 4])) is not None:
                found.append((STREAMS.get(entry.source, 1), entry.text))
            start = end
        return found

    def decoded(self, data: bytes) -> Iterator[Decoded]:
        ends, _ = entry_ends(data)
        start, known_ns, known = 0, -1, ""
        for end in ends:
            entry = _local_entry(data[start + 4 : end - 4])
            start = end
            if entry is None:
                continue
            if entry.at_ns != known_ns:
                known_ns, known = entry.at_ns, stamp(entry.at_ns)
            yield Decoded(STREAMS.get(entry.source, 1), known, {}, entry.text)

    def tail(self, fd: int, size: int, count: int) -> tuple[int, int] | None:
        found, position = 0, size
        if count > 0:
            for begin, _ in _backwards(fd, size):
                if begin < 0:
                    return None
                position, found = begin, found + 1
                if found == count:
                    break
        return position, found

    def since(self, fd: int, size: int, at: str) -> int:
        position = size
        for begin, body in _backwards(fd, size):
            if begin < 0:
                return 0
            entry = _local_entry(body)
            if entry is not None and stamp(entry.at_ns) < at:
                return position
            position = begin
        return position


def _backwards(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Where each entry begins, and its message, from the last to the first; -1 where that cannot be told."""
    end, block, offset = size, b"", size
    while end > 0:
        if end - offset < 8 or end - offset < _LENGTH.unpack_from(block, end - offset - 4)[0] + 8:
            offset = max(0, end - BLOCK - ENTRY_LIMIT)
            block = os.pread(fd, end - offset, offset)
        if end - offset < 8 or len(block) < end - offset:
            yield -1, b""
            return
        foot = block[end - offset - 4 : end - offset]
        begin = end - 8 - _LENGTH.unpack(foot)[0]
        if begin < offset or block[begin - offset : begin - offset + 4] != foot:
            yield -1, b""
            return
        yield begin, block[begin - offset + 4 : end - offset - 4]
        end = begin


class _LocalEntry(NamedTuple):
    source: str
    at_ns: int
    text: bytes


def _local_entry(message: bytes) -> _LocalEntry | None:
    """A LogEntry; None for what is none.  The newline it went without is there again."""
    source, at_ns, line, partial, last = "stdout", 0, b"", False, False
    try:
        for number, value in _fields(message):
            match number, value:
                case 1, bytes():
                    source = value.decode()
                case 2, int():
                    at_ns = value
                case 3, bytes():
                    line = value
                case 4, int():
                    partial = bool(value)
                case 5, bytes():
                    last = any(inner == (1, 1) for inner in _fields(value))
    except (IndexError, ValueError):
        return None
    return _LocalEntry(source, at_ns, line + b"\n" if last or not partial else line)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protobuf message.  Raises IndexError, ValueError for what is none."""
    at, size = 0, len(message)
    while at < size:
        key, at = _varint(message, at)
        value, at = _varint(message, at)
        if key & 7 == 2:
            if at + value > size:
                raise ValueError("a field longer than its message")
            yield key >> 3, message[at : at + value]
            at += value
        elif key & 7 == 0:
            yield key >> 3, value
        else:
            raise ValueError(f"wire type {key & 7}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
