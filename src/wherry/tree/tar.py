"""Tar archives as streams: bytes to entries and entries to bytes.

The reader takes what Docker and GNU tar take (ustar, PAX, GNU long names, base-256 numbers, sparse files of all four kinds) within
limits, and trusts nothing. Global PAX headers are checked and ignored, as Docker does. The writer is deterministic: ustar, with a PAX
header only where a value does not fit.  Source: POSIX.1-2017 pax; GNU tar manual, "Tar Internals".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, Protocol

BLOCK: Final = 512
_ZERO: Final = bytes(BLOCK)
_BUFFER: Final = 1 << 20
_XATTR: Final = "SCHILY.xattr."


class Kind(Enum):
    """What an entry makes: its ustar type flag."""

    FILE = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


_KINDS: Final = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE}


class InvalidArchive(ValueError):
    """Bytes that are not a tar archive within the limits."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One member.  Not frozen only because many thousands are made a second; treat it as a value.

    ``segments``: where the data of a sparse file lies, (offset, length) in ascending order; None for a plain one.
    ``device``: major and minor. ``xattrs``: all that the archive names, also those nobody should apply.
    """

    name: str
    kind: Kind = Kind.FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    segments: list[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one archive may cost; beyond it InvalidArchive is raised."""

    total_bytes: int = 64 << 30
    entries: int = 4_000_000
    name_bytes: int = 4096
    header_bytes: int = 1 << 20
    sparse_segments: int = 10_000
    sparse_segments_total: int = 1_000_000


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Skipping(Source, Protocol):
    """A source that can pass over what nobody reads."""

    def skip(self, size: int, /) -> int:
        """Pass over ``size`` bytes: how many there were, fewer only at the end."""


class Sink(Protocol):
    def write(self, data: bytes | bytearray | memoryview, /) -> object: ...


class Reader:
    """The entries of an archive in order; after each, its data may be read until the next is asked for.

    After the last entry the rest of the source is left unread: `drain` takes it.
    """

    def __init__(self, source: Source, limits: Limits | None = None) -> None:
        self._source = source
        self._skipping: Skipping | None = source if hasattr(source, "skip") else None  # type: ignore[assignment]
        self._limits = limits or Limits()
        self._chunk = memoryview(b"")
        self._position = 0
        self._taken = 0
        self._remaining = 0  # of the current entry's data
        self._padding = 0
        self._entries = 0
        self._segments = 0
        self._entry: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            self._entry = entry
            yield entry

    @property
    def offset(self) -> int:
        """Where in the archive the next byte is that will be read: after an entry was given out, the place of its data."""
        return self._taken - len(self._chunk) + self._position

    @property
    def remaining(self) -> int:
        """Bytes of the current entry's data that are not read yet, as they lie in the archive."""
        return self._remaining

    def read(self, size: int = _BUFFER) -> memoryview:
        """At most ``size`` bytes of the current entry's data, empty at its end; of a sparse file, its segments one after the other."""
        if not self._remaining:
            return self._chunk[:0]
        if self._position == len(self._chunk):
            self._fill()
        end = min(self._position + min(size, self._remaining), len(self._chunk))
        data = self._chunk[self._position : end]
        self._position = end
        self._remaining -= len(data)
        return data

    def copy_to(self, fd: int) -> None:
        """Write the current entry's data to the empty regular file ``fd``; holes of a sparse file stay holes."""
        entry = self._entry
        if entry is None or entry.segments is None:
            while data := self.read():
                _write_all(fd, data)
            return
        for offset, length in entry.segments:
            while length:
                data = self.read(length)
                _pwrite_all(fd, data, offset)
                offset += len(data)
                length -= len(data)
        os.ftruncate(fd, entry.size)

    def drain(self) -> None:
        """Read the source to its end, so that who counts or hashes it has seen every byte."""
        self._position = len(self._chunk)
        while self._more():
            pass

    def _next(self) -> Entry | None:
        records: list[tuple[str, bytes]] = []
        name = link = None
        while (header := self._header()) is not None:
            self._entries += 1
            if self._entries > self._limits.entries:
                raise InvalidArchive(f"archive has more than {self._limits.entries} entries")
            match header[156:157]:
                case b"x" | b"X":
                    records = _records(self._special(header))
                case b"g":
                    _records(self._special(header))
                case b"L":
                    name = _text(self._special(header).split(b"\0", 1)[0])
                case b"K":
                    link = _text(self._special(header).split(b"\0", 1)[0])
                case b"V":
                    self._special(header)
                case _:
                    return self._build(header, records, name, link)
        if records or name is not None or link is not None:
            raise InvalidArchive("unexpected EOF")
        return None

    def _header(self) -> bytes | None:
        self._skip()
        if self._position == len(self._chunk) and not self._more():
            return None
        header = self._take(BLOCK)
        if header == _ZERO:
            if (self._position < len(self._chunk) or self._more()) and self._take(BLOCK) != _ZERO:
                raise InvalidArchive("invalid tar header: a lone zero block")
            return None
        if not _sum_matches(header):
            raise InvalidArchive("invalid tar header: wrong checksum")
        return header

    def _special(self, header: bytes) -> bytes:
        """The data of an entry that describes the next one."""
        size = _number(header[124:136])
        if not 0 <= size <= self._limits.header_bytes:
            raise InvalidArchive(f"extended tar header of {size} bytes")
        self._remaining, self._padding = size, -size % BLOCK
        return self._take_data(size)

    def _build(self, header: bytes, records: list[tuple[str, bytes]], name: str | None, link: str | None) -> Entry:
        kind = _KINDS.get(header[156:157])
        if kind is None:
            raise InvalidArchive(f"unknown tar entry type {header[156:157]!r}")
        entry = Entry(
            name=_name(header),
            kind=kind,
            mode=_same_number(header[100:108]) & 0o7777,
            uid=_same_number(header[108:116]),
            gid=_same_number(header[116:124]),
            size=_number(header[124:136]),
            mtime_ns=_number(header[136:148]) * 1_000_000_000,
            link=_text(header[157:257].split(b"\0", 1)[0]) if header[157] else "",
        )
        if kind is Kind.CHARACTER or kind is Kind.BLOCK:
            entry.device = (_number(header[329:337]), _number(header[337:345]))
        sparse = _merge(entry, records) if records else []
        if name is not None:
            entry.name = name
        if link is not None:
            entry.link = link
        if entry.name.endswith("/") and kind is Kind.FILE:
            entry.kind = Kind.DIRECTORY
        if entry.kind is not Kind.FILE:
            entry.size = 0
        self._validate(entry)
        self._remaining, self._padding = entry.size, -entry.size % BLOCK
        if header[156:157] == b"S":
            self._old_sparse(entry, header)
        elif sparse and entry.kind is Kind.FILE:
            self._pax_sparse(entry, sparse)
        return entry

    def _validate(self, entry: Entry) -> None:
        limit = self._limits.name_bytes
        if len(entry.name) > limit or len(entry.link) > limit:
            raise InvalidArchive(f"tar entry with a name of more than {limit} bytes")
        if "\0" in entry.name or "\0" in entry.link:
            raise InvalidArchive("tar entry with a null byte in its name")
        if not 0 <= entry.size <= self._limits.total_bytes:
            raise InvalidArchive(f"tar entry {entry.name!r} with a size of {entry.size} bytes")
        if not (0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1):
            raise InvalidArchive(f"tar entry {entry.name!r} with owner {entry.uid}:{entry.gid}")
        if not -(2**63) <= entry.mtime_ns < 2**63:
            raise InvalidArchive(f"tar entry {entry.name!r} with an impossible time")
        if not (0 <= entry.device[0] < 2**12 and 0 <= entry.device[1] < 2**20):
            raise InvalidArchive(f"tar entry {entry.name!r} with device number {entry.device[0]}:{entry.device[1]}")

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's old format: four segments in the header, 21 in each extension block before the data."""
        segments = _old_segments(header[386:482])
        extended = header[482]
        while extended:
            block = self._take(BLOCK)
            segments += _old_segments(block[:504])
            extended = block[504]
            self._count_segments(segments)
        self._set_segments(entry, segments, _number(header[483:495]))

    def _pax_sparse(self, entry: Entry, records: list[tuple[str, bytes]]) -> None:
        """PAX formats 0.0 (a record for each number), 0.1 (all in one record) and 1.0 (before the data)."""
        values = dict(records)
        real_size = values.get("realsize", values.get("size"))
        if real_size is None:
            raise InvalidArchive(f"sparse tar entry {entry.name!r} without a size")
        if "name" in values:
            entry.name = _text(values["name"])
            self._validate(entry)
        if values.get("major") == b"1" and values.get("minor") == b"0":
            numbers = self._sparse_map()
        elif "map" in values:
            numbers = [_decimal(text) for text in values["map"].split(b",")] if values["map"] else []
        else:
            numbers = [_decimal(value) for key, value in records if key in ("offset", "numbytes")]
        if len(numbers) % 2:
            raise InvalidArchive(f"sparse tar entry {entry.name!r} with half a segment")
        self._set_segments(entry, list(zip(numbers[::2], numbers[1::2], strict=True)), _decimal(real_size))

    def _sparse_map(self) -> list[int]:
        numbers: list[int] = []
        rest = b""
        wanted = 1
        while len(numbers) < wanted:
            if b"\n" not in rest:
                if len(rest) > 32:
                    raise InvalidArchive("invalid sparse map")
                rest += self._take_data(BLOCK)
                continue
            line, _, rest = rest.partition(b"\n")
            numbers.append(_decimal(line))
            if len(numbers) == 1:
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > self._limits.sparse_segments:
                    raise InvalidArchive("sparse tar entry with too many segments")
        return numbers[1:]

    def _set_segments(self, entry: Entry, segments: list[tuple[int, int]], real_size: int) -> None:
        self._count_segments(segments)
        self._segments += len(segments)
        end = 0
        for offset, length in segments:
            if offset < end or length < 0 or offset + length > real_size:
                raise InvalidArchive(f"sparse tar entry {entry.name!r} with overlapping segments")
            end = offset + length
        if sum(length for _, length in segments) != self._remaining or not 0 <= real_size <= self._limits.total_bytes:
            raise InvalidArchive(f"sparse tar entry {entry.name!r} with a wrong size")
        entry.segments = segments
        entry.size = real_size

    def _count_segments(self, segments: list[tuple[int, int]]) -> None:
        if len(segments) > self._limits.sparse_segments or self._segments + len(segments) > self._limits.sparse_segments_total:
            raise InvalidArchive("sparse tar entry with too many segments")

    def _skip(self) -> None:
        """Pass over what is left of the current entry. Its padding may be missing at the end of an archive: Docker's own command line
        ends build contexts so, and Go's reader takes it."""
        left, padding = self._remaining, self._padding
        self._remaining = self._padding = 0
        if self._skipping is not None and left > len(self._chunk) - self._position:
            self._pass(self._skipping, left - (len(self._chunk) - self._position))
            left = 0
        while left > len(self._chunk) - self._position:
            left -= len(self._chunk) - self._position
            self._fill()
        self._position += left
        while padding > len(self._chunk) - self._position:
            padding -= len(self._chunk) - self._position
            if not self._more():
                return
        self._position += padding

    def _pass(self, source: Skipping, size: int) -> None:
        self._chunk, self._position = memoryview(b""), 0
        skipped = source.skip(size)
        self._count(skipped)
        if skipped < size:
            raise InvalidArchive("unexpected EOF")

    def _take_data(self, size: int) -> bytes:
        if size > self._remaining:
            raise InvalidArchive("unexpected end of tar entry")
        self._remaining -= size
        return self._take(size)

    def _take(self, size: int) -> bytes:
        if len(self._chunk) - self._position >= size:
            self._position += size
            return bytes(self._chunk[self._position - size : self._position])
        parts = []
        while size:
            if self._position == len(self._chunk):
                self._fill()
            part = self._chunk[self._position : self._position + size]
            self._position += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _fill(self) -> None:
        if not self._more():
            raise InvalidArchive("unexpected EOF")

    def _more(self) -> bool:
        self._chunk = memoryview(self._source.read(_BUFFER))
        self._position = 0
        self._count(len(self._chunk))
        return len(self._chunk) > 0

    def _count(self, size: int) -> None:
        self._taken += size
        if self._taken > self._limits.total_bytes:
            raise InvalidArchive(f"archive is larger than {self._limits.total_bytes} bytes")


def is_header(block: bytes) -> bool:
    """Whether these bytes are a member's header: they are 512, not all zero, and their checksum holds."""
    if len(block) != BLOCK or block == _ZERO:
        return False
    try:
        return _sum_matches(block)
    except InvalidArchive:
        return False


class Writer:
    """An archive on its way to ``out``: `add` an entry, `write` its data, and `finish`."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._buffer = bytearray()
        self._flushed = 0
        self._due = 0  # bytes of the current entry's data still to come
        self._padding = 0

    @property
    def offset(self) -> int:
        """Where in the archive the next byte will be that is written: after an `add`, the place of that entry's data."""
        return self._flushed + len(self._buffer)

    def add(self, entry: Entry, data: bytes | memoryview = b"") -> None:
        """Write the header, and ``data`` as the first of ``entry.size`` bytes.  Raises ValueError when the last entry is incomplete."""
        if self._due:
            raise ValueError(f"{self._due} bytes of the last tar entry are missing")
        self._buffer += bytes(self._padding)
        self._buffer += header(entry)
        self._due = entry.size
        self._padding = -entry.size % BLOCK
        if data:
            self.write(data)
        elif len(self._buffer) >= _BUFFER:
            self._flush()

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the entry's data."""
        self._due -= len(data)
        if self._due < 0:
            raise ValueError("more data than the tar entry's size")
        if len(data) < _BUFFER // 8:
            self._buffer += data
            if len(self._buffer) >= _BUFFER:
                self._flush()
        else:
            self._flush()
            self._out.write(data)
            self._flushed += len(data)

    def finish(self) -> None:
        """End the archive; ``out`` stays open."""
        if self._due:
            raise ValueError(f"{self._due} bytes of the last tar entry are missing")
        self._buffer += bytes(self._padding + 2 * BLOCK)
        self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._out.write(bytes(self._buffer))
            self._flushed += len(self._buffer)
            self._buffer.clear()


def header(entry: Entry) -> bytes:
    """The block or blocks that come before the entry's data; of a sparse entry only ``size`` counts."""
    pax: list[tuple[bytes, bytes]] = []
    name = _bytes(entry.name + "/" if entry.kind is Kind.DIRECTORY and not entry.name.endswith("/") else entry.name)
    link = _bytes(entry.link)
    prefix = b""
    if len(name) > 100 or not name.isascii():
        split = _split(name) if name.isascii() else None
        if split is None:
            pax.append((b"path", name))
            name = name.decode("ascii", "replace").encode("ascii", "replace")[:100] if not name.isascii() else name[:100]
        else:
            prefix, name = split
    if len(link) > 100 or not link.isascii():
        pax.append((b"linkpath", link))
        link = link.decode("ascii", "replace").encode("ascii", "replace")[:100]
    seconds, fraction = divmod(entry.mtime_ns, 1_000_000_000)
    uid, gid, size = entry.uid, entry.gid, entry.size
    if fraction or not 0 <= seconds < 8**11:
        pax.append((b"mtime", _seconds(entry.mtime_ns)))
        seconds = min(max(seconds, 0), 8**11 - 1)
    if uid >= 8**7:
        pax.append((b"uid", b"%d" % uid))
        uid = 0
    if gid >= 8**7:
        pax.append((b"gid", b"%d" % gid))
        gid = 0
    if size >= 8**11:
        pax.append((b"size", b"%d" % size))
        size = 0
    if entry.xattrs:
        pax += [(_bytes(_XATTR + key), value) for key, value in sorted(entry.xattrs.items())]
    block = _block(name, entry.mode, uid, gid, size, seconds, entry.kind.value, link, entry.device, prefix)
    if not pax:
        return block
    body = b"".join(_record(key, value) for key, value in sorted(pax))
    directory, _, last = name.rstrip(b"/").rpartition(b"/")
    pax_name = ((directory + b"/" if directory else b"") + b"PaxHeaders.0/" + last)[:100]
    return _block(pax_name, 0o644, 0, 0, len(body), 0, b"x", b"", (0, 0), b"") + body + bytes(-len(body) % BLOCK) + block


def _block(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, flag: bytes, link: bytes, device: tuple[int, int], prefix: bytes
) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    devices = b"%07o\0%07o\0" % device
    # the magic and version "ustar\0" "00" sum to 655, eight spaces in place of the checksum to 256
    checksum = sum(name) + sum(numbers) + flag[0] + sum(link) + sum(devices) + sum(prefix) + 911
    return b"".join(
        (
            name.ljust(100, b"\0"),
            numbers,
            b"%06o\0 " % checksum,
            flag,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            devices,
            prefix.ljust(167, b"\0"),
        )
    )


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if rest + len(str(length)) != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _seconds(time_ns: int) -> bytes:
    sign = "-" if time_ns < 0 else ""
    seconds, fraction = divmod(abs(time_ns), 1_000_000_000)
    text = f"{sign}{seconds}.{fraction:09}".rstrip("0").rstrip(".")
    return text.encode()


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) as ustar stores a long name, or None where it does not fit."""
    start = name.find(b"/", max(len(name) - 101, 0))
    if start < 1 or start > 155 or start >= len(name) - 1:
        return None
    return name[:start], name[start + 1 :]


def _records(data: bytes) -> list[tuple[str, bytes]]:
    """PAX records: ``length key=value\\n`` each; the length counts the whole record."""
    records = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = _decimal(data[position:space]) if space > 0 else 0
        end = position + length
        equals = data.find(b"=", space, end)
        if length < 5 or end > len(data) or data[end - 1] != 0x0A or equals < 0:
            raise InvalidArchive("invalid PAX record")
        records.append((_text(data[space + 1 : equals]), data[equals + 1 : end - 1]))
        position = end
    return records


def _merge(entry: Entry, records: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Set the fields that PAX records override; return the records about sparseness, without their prefix."""
    sparse = []
    for key, value in records:
        if key.startswith("GNU.sparse."):
            sparse.append((key[11:], value))
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
        elif value:
            match key:
                case "path":
                    entry.name = _text(value)
                case "linkpath":
                    entry.link = _text(value)
                case "size":
                    entry.size = _decimal(value)
                case "uid":
                    entry.uid = _decimal(value)
                case "gid":
                    entry.gid = _decimal(value)
                case "mtime":
                    entry.mtime_ns = _nanoseconds(value)
    return sparse


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[345] and header[257:263] == b"ustar\0":
        end = 476 if header[508:512] == b"tar\0" else 500  # star keeps times at the end of the prefix
        prefix = header[345:end].split(b"\0", 1)[0]
        if prefix:
            name = prefix + b"/" + name
    return _text(name)


def _number(data: bytes) -> int:
    """A header's number: octal, or base-256 with the high bit set."""
    text = data.strip(b" \0")
    if text.isdigit():  # nearly all
        return _octal(text)
    if data[0] & 0x80:
        value = int.from_bytes(data, "big")
        bits = 8 * len(data)
        return value - (1 << bits) if data[0] & 0x40 else value - (1 << (bits - 1))
    text = text.split(b"\0", 1)[0]
    if not text:
        return 0
    if not text.isdigit():
        raise InvalidArchive("invalid tar header: not a number")
    return _octal(text)


def _octal(text: bytes) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise InvalidArchive("invalid tar header: not a number") from None


_same_number = lru_cache(_number)  # few modes and owners, again and again


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise InvalidArchive("invalid number in a PAX record")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    sign = -1 if text.startswith(b"-") else 1
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise InvalidArchive("invalid time in a PAX record")
    return sign * (_decimal(seconds) * 1_000_000_000 + int((fraction[:9] or b"0").ljust(9, b"0")))


def _old_segments(data: bytes) -> list[tuple[int, int]]:
    segments = []
    for start in range(0, len(data), 24):
        if data[start] == 0 and data[start + 12] == 0:
            break
        segments.append((_number(data[start : start + 12]), _number(data[start + 12 : start + 24])))
    return segments


def _sum_matches(header: bytes) -> bool:
    told = _number(header[148:156])
    if sum(header) - sum(header[148:156]) + 256 == told:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:])  # some old writers summed signed bytes
    return signed + 256 == told


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written
