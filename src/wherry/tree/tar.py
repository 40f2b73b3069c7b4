"""Tar archives as streams: what an entry is, and what an archive may cost.

`tar_reader` makes entries of bytes, `tar_writer` bytes of entries, `tar_fields` reads the fields of headers.
Source: POSIX.1-2017 pax; GNU tar manual, "Tar Internals".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

BLOCK: Final = 512
XATTR: Final = "SCHILY.xattr."  # how a PAX record names an extended attribute


class Kind(Enum):
    """What an entry makes: its ustar type flag."""

    FILE = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


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
