"""Tar archives from bytes to entries.

The reader takes what Docker and GNU tar take (ustar, PAX, GNU long names, base-256 numbers, sparse files of all four kinds) within
limits, and trusts nothing. Global PAX headers are checked and ignored, as Docker does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from wherry.tree.tar import BLOCK, Entry, InvalidArchive, Kind, Limits, Skipping, Source
from wherry.tree.tar_fields import (
    ZERO,
    decimal,
    merge_records,
    name_of,
    number,
    old_segments,
    pax_records,
    same_number,
    sum_matches,
    text_of,
)

_BUFFER: Final = 1 << 20
_KINDS: Final = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE}


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
        os.ftruncate(fd, entry.size)  # first: XFS fills what lies between a file's end and a write behind it
        for offset, length in entry.segments:
            while length:
                data = self.read(length)
                _pwrite_all(fd, data, offset)
                offset += len(data)
                length -= len(data)

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
                    records = pax_records(self._special(header))
                case b"g":
                    pax_records(self._special(header))
                case b"L":
                    name = text_of(self._special(header).split(b"\0", 1)[0])
                case b"K":
                    link = text_of(self._special(header).split(b"\0", 1)[0])
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
        if header == ZERO:
            if (self._position < len(self._chunk) or self._more()) and self._take(BLOCK) != ZERO:
                raise InvalidArchive("invalid tar header: a lone zero block")
            return None
        if not sum_matches(header):
            raise InvalidArchive("invalid tar header: wrong checksum")
        return header

    def _special(self, header: bytes) -> bytes:
        """The data of an entry that describes the next one."""
        size = number(header[124:136])
        if not 0 <= size <= self._limits.header_bytes:
            raise InvalidArchive(f"extended tar header of {size} bytes")
        self._remaining, self._padding = size, -size % BLOCK
        return self._take_data(size)

    def _build(self, header: bytes, records: list[tuple[str, bytes]], name: str | None, link: str | None) -> Entry:
        kind = _KINDS.get(header[156:157])
        if kind is None:
            raise InvalidArchive(f"unknown tar entry type {header[156:157]!r}")
        entry = Entry(
            name=name_of(header),
            kind=kind,
            mode=same_number(header[100:108]) & 0o7777,
            uid=same_number(header[108:116]),
            gid=same_number(header[116:124]),
            size=number(header[124:136]),
            mtime_ns=number(header[136:148]) * 1_000_000_000,
            link=text_of(header[157:257].split(b"\0", 1)[0]) if header[157] else "",
        )
        if kind is Kind.CHARACTER or kind is Kind.BLOCK:
            entry.device = (number(header[329:337]), number(header[337:345]))
        sparse = merge_records(entry, records) if records else []
        if name is not None:
            entry.name = name
        if link is not None:
            entry.link = link
        if header[156] == 0 and entry.name.endswith("/"):
            # how archives before ustar told of a directory; with the flag "0" it is a file, as for Docker
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
        segments = old_segments(header[386:482])
        extended = header[482]
        while extended:
            block = self._take(BLOCK)
            segments += old_segments(block[:504])
            extended = block[504]
            self._count_segments(segments)
        self._set_segments(entry, segments, number(header[483:495]))

    def _pax_sparse(self, entry: Entry, records: list[tuple[str, bytes]]) -> None:
        """PAX formats 0.0 (a record for each number), 0.1 (all in one record) and 1.0 (before the data)."""
        values = dict(records)
        real_size = values.get("realsize", values.get("size"))
        if real_size is None:
            raise InvalidArchive(f"sparse tar entry {entry.name!r} without a size")
        if "name" in values:
            entry.name = text_of(values["name"])
            self._validate(entry)
        if values.get("major") == b"1" and values.get("minor") == b"0":
            numbers = self._sparse_map()
        elif "map" in values:
            numbers = [decimal(text) for text in values["map"].split(b",")] if values["map"] else []
        else:
            numbers = [decimal(value) for key, value in records if key in ("offset", "numbytes")]
        if len(numbers) % 2:
            raise InvalidArchive(f"sparse tar entry {entry.name!r} with half a segment")
        self._set_segments(entry, list(zip(numbers[::2], numbers[1::2], strict=True)), decimal(real_size))

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
            numbers.append(decimal(line))
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


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written
