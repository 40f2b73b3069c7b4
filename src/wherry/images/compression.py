"""Streams in any compression, told by their first bytes, as plain bytes; and gzip out."""

from __future__ import annotations

import io
import os
import select
import struct
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from typing import Any

from isal import isal_zlib

from wherry.store.parsing import PATIENCE_S, Start, inline, wide_pipe
from wherry.tree.compression import HEAD, BadStream, kind_of
from wherry.tree.tar import InvalidArchive, Source

BLOCK = 1 << 20
_INPUT = 512 << 10
_PIECE = 512 << 10  # half a pipe: while one half is used, the other is filled
_GZIP_LEVEL = 2
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
_LAST_BLOCK = b"\x01\x00\x00\xff\xff"
_STORED = 0xFFFF  # bytes at most in one stored block
_SAMPLE = 8 << 10


class PlainReader(io.RawIOBase):
    """``source`` without its compression, which ``start`` has undone elsewhere; a reader of blocks, not of single bytes.

    ``consumed``: how many bytes of ``source`` have been used, for a progress bar. Closing it leaves ``source`` open.
    Raises BadStream from ``read``.
    """

    def __init__(self, source: Source, start: Start = inline) -> None:
        self._source = source
        head = b""
        while len(head) < HEAD and (more := source.read(HEAD - len(head))):
            head += more
        self.kind = kind_of(head)
        self.consumed = len(head)
        self._pieces = _elsewhere(start, self.kind, head, self._block) if self.kind else self._plain(head)
        self._held = memoryview(b"")

    def close(self) -> None:
        self._pieces.close()
        super().close()

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

    def _plain(self, head: bytes) -> Generator[bytes, None, None]:
        if head:
            yield head
        while block := self._source.read(BLOCK):
            self.consumed += len(block)
            yield block

    def _block(self) -> bytes:
        block = self._source.read(_INPUT)
        self.consumed += len(block)
        return block


def _elsewhere(start: Start, kind: str, head: bytes, take: Callable[[], bytes]) -> Generator[bytes, None, None]:
    """What `tree.parsing.plain` makes of ``head`` and the blocks that ``take`` brings.  Raises BadStream; what ``take`` raises."""
    with ExitStack() as ends:
        their_source, source = wide_pipe()
        plain, their_target = wide_pipe()
        try:
            job = start("plain", {"kind": kind}, [their_source, their_target])
            ends.callback(job.end)
        finally:
            os.close(their_source)
            os.close(their_target)
            ends.callback(os.close, plain)
            feed = ends.enter_context(open(source, "wb", buffering=0))  # closed first: who reads it must see that no more comes
        os.set_blocking(source, False)
        ready = select.poll()
        ready.register(plain, select.POLLIN)
        ready.register(source, select.POLLOUT)
        rest = memoryview(head)
        while found := {fd for fd, _ in ready.poll(PATIENCE_S * 1000)}:
            if plain in found:  # before more is fed, so that neither side waits for the other in a circle
                if not (data := os.read(plain, _PIECE)):
                    break
                yield data
                continue
            rest = rest or memoryview(take())
            with suppress(BrokenPipeError):  # it says at the end why it takes no more
                if rest:
                    rest = rest[feed.write(rest) or 0 :]
                    continue
            ready.unregister(source)
            feed.close()
        try:
            job.result(PATIENCE_S if found else 0.0)
        except InvalidArchive as error:
            raise BadStream(str(error)) from error


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
