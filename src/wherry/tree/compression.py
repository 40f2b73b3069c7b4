"""Compressed streams made plain: gzip, zstd, xz and bzip2, told by their first bytes.

The libraries that do it are written in C and see hostile bytes: this runs in a confined process (see `tree.parsing`).
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, Protocol, cast

import zstandard
from isal import igzip_lib

HEAD: Final = 6  # bytes that tell every kind
_BLOCK: Final = 1 << 20
_MAGIC: Final = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bz2"),
)
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # behind 0x50 to 0x5f: a frame of zstd that says nothing, also at the beginning (pzstd)
_RUN: Final = 1  # a zstd block of one byte, again and again
_MEMORY_LIMIT: Final = 128 << 20
_ISAL_ERROR = cast(type[Exception], igzip_lib.IsalError)  # its stub calls it an instance
_FAILURES = (zlib.error, _ISAL_ERROR, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError)


class BadStream(ValueError):
    """The bytes are not what their first ones promised, or they end too early."""


class _Decompressor(Protocol):
    """What bz2, lzma and igzip have in common.  ``max_length`` keeps a bomb small."""

    def decompress(self, data: bytes, max_length: int) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def kind_of(head: bytes) -> str:
    """gzip, zstd, xz, bz2, or "" for anything else, by the first bytes."""
    if _is_skippable(head[:4]):
        return "zstd"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


def decompress(kind: str, take: Callable[[], bytes]) -> Iterator[bytes]:
    """The plain bytes, a MiB at most at a time, of the compressed ones that ``take`` brings: a block each time, empty at the end.

    Every member of the stream; zeros after the last are ignored, anything else is refused. Raises BadStream; what ``take`` raises.
    """
    taken = _Taken(take)
    try:
        yield from _zstd(taken) if kind == "zstd" else _members(kind, taken)
    except _FAILURES as error:
        if error is taken.failure:
            raise
        raise BadStream(f"{kind}: {error}") from error


class _Taken:
    """The blocks, one by one.  ``failure``: what the source raised, which is no bad stream."""

    def __init__(self, take: Callable[[], bytes]) -> None:
        self._take = take
        self.failure: Exception | None = None

    def block(self) -> bytes:
        try:
            return self._take()
        except Exception as error:
            self.failure = error
            raise


def _members(kind: str, taken: _Taken) -> Iterator[bytes]:
    decompressor = _decompressor(kind)
    block = b""
    while True:
        if plain := decompressor.decompress(block, _BLOCK):
            yield plain
        block = b""
        if decompressor.eof:
            block = decompressor.unused_data.lstrip(b"\0")
            while not block:
                block = taken.block()
                if not block:
                    return
                block = block.lstrip(b"\0")
            decompressor = _decompressor(kind)
        elif decompressor.needs_input:
            block = taken.block()
            if not block:
                raise BadStream("unexpected EOF")


def _zstd(taken: _Taken) -> Iterator[bytes]:
    framing = _Framing(taken)
    source: Any = framing
    reader = zstandard.ZstdDecompressor(max_window_size=_MEMORY_LIMIT).stream_reader(source, read_across_frames=True)
    while plain := reader.read(_BLOCK):
        yield plain
    if not framing.is_whole:
        raise BadStream("unexpected EOF")


class _Framing:
    """Follows a zstd stream's frames and blocks while the library reads them: that takes a stream that is cut off for one that ended.

    Source: RFC 8878, 3.1.
    """

    def __init__(self, taken: _Taken) -> None:
        self._taken = taken
        self._walk = self._steps()
        self._wanted = next(self._walk)
        self._held = b""
        self._skip = 0
        self._between = True

    @property
    def is_whole(self) -> bool:
        """So far: no frame is open."""
        return self._between and not self._held and not self._skip

    def read(self, _size: int = -1) -> bytes:
        block = self._taken.block()
        position = 0
        while position < len(block):
            if self._skip:
                step = min(self._skip, len(block) - position)
                self._skip -= step
            else:
                step = min(self._wanted - len(self._held), len(block) - position)
                self._held += block[position : position + step]
                if len(self._held) == self._wanted:
                    held, self._held = self._held, b""
                    self._wanted = self._walk.send(held)
            position += step
        return block

    def _steps(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it wants to see next, behind those it wants skipped."""
        while True:
            self._between = True
            magic = yield 4
            self._between = False
            if _is_skippable(magic):
                self._skip = int.from_bytes((yield 4), "little")
                continue
            flags = (yield 1)[0]
            single = flags >> 5 & 1
            self._skip = (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
            last = False
            while not last:
                header = int.from_bytes((yield 3), "little")
                last = bool(header & 1)
                self._skip = 1 if header >> 1 & 3 == _RUN else header >> 3
            if flags & 4:
                yield 4


def _is_skippable(magic: bytes) -> bool:
    return magic[1:] == _SKIPPABLE and magic[0] & 0xF0 == 0x50


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    if kind == "xz":
        return lzma.LZMADecompressor(memlimit=_MEMORY_LIMIT)
    return bz2.BZ2Decompressor()
