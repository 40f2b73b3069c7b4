"""Streams in any compression, told by their first bytes, as plain bytes; and gzip out."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from wherry.tree.tar import Source

BLOCK = 1 << 20
_INPUT = 512 << 10
_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bz2"),
)
_MEMORY_LIMIT = 128 << 20
_GZIP_LEVEL = 2
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
_LAST_BLOCK = b"\x01\x00\x00\xff\xff"
_STORED = 0xFFFF  # bytes at most in one stored block
_SAMPLE = 8 << 10
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
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


class PlainReader(io.RawIOBase):
    """``source`` without its compression; a reader of blocks, not of single bytes.  Raises BadStream from ``read``.

    ``consumed``: how many bytes of ``source`` have been used, for a progress bar. Closing it leaves ``source`` open.
    """

    def __init__(self, source: Source, head: bytes = b"") -> None:
        self._source = source
        while len(head) < 6 and (more := source.read(6 - len(head))):
            head += more
        self.kind = kind_of(head)
        self.consumed = len(head)
        self._pieces = self._decompressed(head) if self.kind else self._plain(head)
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        size = min(len(target), len(self._held))
        target[:size] = self._held[:size]
        self._held = self._held[size:]
        return size

    def read1(self, size: int = BLOCK) -> bytes:
        """What is at hand, at most ``size`` bytes and mostly without a copy; nothing at the end."""
        piece: bytes | memoryview = self._held if self._held else next(self._pieces, b"")
        if len(piece) <= size:
            self._held = memoryview(b"")
            return bytes(piece)
        self._held = memoryview(piece)[size:]
        return bytes(piece[:size])

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""
        if size < 0:
            return b"".join([bytes(self._held), *self._pieces])
        if size <= len(self._held):
            taken = bytes(self._held[:size])
            self._held = self._held[size:]
            return taken
        parts: list[memoryview | bytes] = []
        missing = size
        while missing:
            if not self._held:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._held = memoryview(piece)
            part = self._held[:missing]
            self._held = self._held[len(part) :]
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _plain(self, head: bytes) -> Iterator[bytes]:
        if head:
            yield head
        while block := self._source.read(BLOCK):
            self.consumed += len(block)
            yield block

    def _decompressed(self, head: bytes) -> Iterator[bytes]:
        try:
            yield from self._zstd(head) if self.kind == "zstd" else self._members(head)
        except _FAILURES as error:
            raise BadStream(f"{self.kind}: {error}") from error

    def _members(self, block: bytes) -> Iterator[bytes]:
        """Every member of the stream; zero padding after the last is ignored, anything else is refused."""
        decompressor = _decompressor(self.kind)
        while True:
            if plain := decompressor.decompress(block, BLOCK):
                yield plain
            block = b""
            if decompressor.eof:
                block = decompressor.unused_data.lstrip(b"\0")
                while not block:
                    block = self._block()
                    if not block:
                        return
                    block = block.lstrip(b"\0")
                decompressor = _decompressor(self.kind)
            elif decompressor.needs_input:
                block = self._block()
                if not block:
                    raise BadStream("unexpected EOF")

    def _zstd(self, head: bytes) -> Iterator[bytes]:
        source: Any = _Joined(head, self._block)
        reader = zstandard.ZstdDecompressor(max_window_size=_MEMORY_LIMIT).stream_reader(source, read_across_frames=True)
        while plain := reader.read(BLOCK):
            yield plain

    def _block(self) -> bytes:
        block = self._source.read(_INPUT)
        self.consumed += len(block)
        return block


class _Joined(io.RawIOBase):
    """``head``, then blocks, as the file that zstandard reads."""

    def __init__(self, head: bytes, block: Callable[[], bytes]) -> None:
        super().__init__()
        self._head = head
        self._block = block

    def read(self, _size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head or self._block()


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    if kind == "xz":
        return lzma.LZMADecompressor(memlimit=_MEMORY_LIMIT)
    return bz2.BZ2Decompressor()


class GzipWriter:
    """gzip, the same bytes for the same input: no name, no time.

    Each block is looked at first: what does not become smaller (archives, pictures, keys) is stored as it is, at the speed of a copy, and
    read again at that speed.  Source: RFC 1951, RFC 1952.
    """

    def __init__(self) -> None:
        self._pending: list[bytes | bytearray | memoryview] = []
        self._pending_size = 0
        self._deflate: Any = None
        self._crc = 0
        self._size = 0
        self._begun = False

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """What comes out for ``data``, or for what came before it; often nothing yet."""
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size < BLOCK:
            return b""
        joined = memoryview(data if len(self._pending) == 1 else b"".join(self._pending))
        whole = len(joined) - len(joined) % BLOCK
        self._pending, self._pending_size = [bytes(joined[whole:])], len(joined) - whole
        return b"".join(piece for start in range(0, whole, BLOCK) for piece in self._block(joined[start : start + BLOCK]))

    def finish(self) -> bytes:
        pieces = self._block(memoryview(b"".join(self._pending))) if self._pending_size or not self._begun else []
        last = [_LAST_BLOCK] if self._deflate is None else [self._deflate.flush()]
        return b"".join([*pieces, *last, struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)])

    def _block(self, block: memoryview) -> list[bytes | memoryview]:
        pieces: list[bytes | memoryview] = [] if self._begun else [_GZIP_HEADER]
        self._begun = True
        self._crc = isal_zlib.crc32(block, self._crc)
        self._size += len(block)
        if shrinks(block):
            if self._deflate is None:
                self._deflate = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, -15)
            pieces.append(self._deflate.compress(block))
            return pieces
        if self._deflate is not None:
            pieces.append(self._deflate.flush(isal_zlib.Z_SYNC_FLUSH))
            self._deflate = None  # what follows must not refer to what lies before
        for start in range(0, len(block), _STORED):
            part = block[start : start + _STORED]
            pieces += [struct.pack("<BHH", 0, len(part), len(part) ^ 0xFFFF), part]
        return pieces


def shrinks(block: memoryview) -> bool:
    """Whether compressing is worth it, by a few samples of the block."""
    if len(block) < 4 * _SAMPLE:
        return True
    step = len(block) // 4
    samples = b"".join(block[start : start + _SAMPLE] for start in range(0, step * 4, step))
    return len(isal_zlib.compress(samples, 1)) < len(samples) * 0.97
