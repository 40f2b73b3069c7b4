"""Archives in any compression, told by their first bytes, made plain for ADD."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What a damaged or cut archive raises."""

_CHUNK = 1 << 18


def is_tar_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header: its checksum holds."""
    if len(block) < 512 or not block.strip(b"\0"):
        return False
    try:
        told = int(block[148:156].strip(b"\0 ") or b"-", 8)
    except ValueError:
        return False
    return told == sum(block[:148]) + 8 * 32 + sum(block[156:512])


def open_archive(source_fd: int, directory: str) -> int | None:
    """A descriptor of the plain tar inside a (maybe compressed) file, or None when there is no tar in it.  Raises one of BROKEN.

    A compressed one is made plain in a file of ``directory`` that has no name.
    """
    head = os.pread(source_fd, 512, 0)
    opener = next((make for magic, make in _FORMATS.items() if head.startswith(magic)), None)
    if opener is None:
        return os.dup(source_fd) if is_tar_header(head) else None
    target = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        first = True
        for block in _plain(source_fd, opener):
            if first and not is_tar_header(block[:512]):
                os.close(target)
                return None
            first = False
            os.write(target, block)
        if first:
            os.close(target)
            return None
    except BROKEN:
        os.close(target)
        if first:
            return None
        raise
    os.lseek(target, 0, os.SEEK_SET)
    return target


class _Inflate(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip() -> _Inflate:
    return zlib.decompressobj(31)


def _zstd() -> _Inflate:
    return zstandard.ZstdDecompressor().decompressobj()


_FORMATS: dict[bytes, Callable[[], _Inflate]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def _plain(fd: int, opener: Callable[[], _Inflate]) -> Iterator[bytes]:
    """Blocks of at least 512 bytes (but for the last), of all compressed parts one after the other.

    The first is read from few bytes: damage further on is no doubt about the kind.
    """
    inflate = opener()
    pending = b""
    offset = 0
    while chunk := os.pread(fd, _CHUNK if offset else 512, offset):
        offset += len(chunk)
        while chunk.strip(b"\0") if inflate.eof else chunk:  # zeros behind the end are padding
            inflate = opener() if inflate.eof else inflate
            pending += inflate.decompress(chunk)
            chunk = inflate.unused_data if inflate.eof else b""
        if len(pending) >= 512:
            yield pending
            pending = b""
    if pending:
        yield pending
    if not inflate.eof:
        raise EOFError("the compressed archive breaks off")
