"""The files a container's log stands in: the newest at ``PATH``, older ones at ``PATH.1``, ``PATH.2`` ..., packed as ``PATH.1.gz``.

Entries are made by ``jsonlog`` and ``locallog``; here they are appended, and files rotated and packed, as Docker's file drivers do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass

from wherry.kernel import process
from wherry.runtime.eventloop import IN, EventLoop
from wherry.runtime.timestamps import rfc3339

_BLOCK = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How entries follow each other in a file.

    ``split``: bytes of whole entries -> each one. ``whole``: (descriptor, size) -> up to where the file consists of whole entries.
    """

    split: Callable[[bytes], list[bytes]]
    whole: Callable[[int, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``max_size_bytes`` 0: no rotation; else a file is left for a new one when it has reached that, and ``max_files`` are kept."""

    max_size_bytes: int = 0
    max_files: int = 1
    compress: bool = False


class LogFile:
    """Appends to one container's log.  What a crash or a full disk left torn at the end is cut off: it never was an entry."""

    def __init__(self, path: str, layout: Layout, limits: Limits, loop: EventLoop | None = None) -> None:
        """``loop``: where the end of a process that packs a file is heard of."""
        self._path, self._layout, self._limits = path, layout, limits
        self._packing: _Packing | None = None
        self._loop = loop
        self._last_ns = 0
        self._fd = os.open(path, _CREATE, 0o640)
        self._size = os.fstat(self._fd).st_size
        if self._size:
            self._mend()

    def append(self, entries: bytes, now_ns: int) -> None:
        """Write whole entries, all made at ``now_ns``."""
        limit = self._limits.max_size_bytes
        if not limit or self._size + len(entries) <= limit:
            self._write(entries, now_ns)
            return
        ready: list[bytes] = []
        size = self._size
        for entry in self._layout.split(entries):
            if size >= limit:
                self._write(b"".join(ready), now_ns)
                self._rotate()
                ready, size = [], 0
            ready.append(entry)
            size += len(entry)
        self._write(b"".join(ready), now_ns)

    def close(self) -> None:
        os.close(self._fd)
        if self._packing is not None:
            self._packing.abandon()  # the file stays as it is; nobody would be there to hear of its packing's end

    def _mend(self) -> None:
        with open(self._path, "rb") as file:
            whole = self._layout.whole(file.fileno(), self._size)
        if whole < self._size:
            os.ftruncate(self._fd, whole)
            self._size = whole

    def _write(self, data: bytes, now_ns: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:  # a full disk must not stop the container; Docker drops the line too
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            return
        self._size += len(data)
        self._last_ns = now_ns

    def _rotate(self) -> None:
        os.close(self._fd)
        if self._packing is not None:
            self._packing.finish()
            self._packing = None
        files = self._limits.max_files
        if files > 1:
            _shift(self._path, files)
        else:
            os.unlink(self._path)
        self._fd = os.open(self._path, _CREATE, 0o640)
        self._size = 0
        if self._limits.compress and files > 1:
            self._packing = _Packing(f"{self._path}.1", self._last_ns, self._loop)


def _shift(path: str, files: int) -> None:
    """Make each file one older; the oldest goes.  Dying in the midst leaves a number out and nothing twice."""
    for suffix in ("", ".gz"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.{files - 1}{suffix}")
    for number in range(files - 2, 0, -1):
        for suffix in ("", ".gz"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}.{number}{suffix}", f"{path}.{number + 1}{suffix}")
    os.rename(path, f"{path}.1")


class _Packing:
    """A child that packs one file while the container goes on.  It dies with the monitor; the file is there until the packed one is."""

    def __init__(self, path: str, last_ns: int, loop: EventLoop | None) -> None:
        self._path = path
        self._loop = loop
        pid, self._pidfd = process.clone(0)
        if pid == 0:
            _pack_and_exit(path, last_ns)
        if loop is not None:
            loop.watch(self._pidfd, IN, self._on_end)

    def finish(self) -> None:
        """Wait for its end."""
        if self._pidfd < 0:
            return
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        if self._loop is not None:
            self._loop.unwatch(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1

    def abandon(self) -> None:
        """End it now."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.finish()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_temporary(self._path))

    def _on_end(self, _events: int) -> None:
        self.finish()


def _pack_and_exit(path: str, last_ns: int) -> None:
    code = 1
    try:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.close_range(0)  # clients and pipes must not stay open with us
        os.nice(5)
        _pack(path, last_ns)
        code = 0
    except OSError:  # a full disk, or the container is gone: the file stays as it is
        with contextlib.suppress(OSError):
            os.unlink(_temporary(path))
    finally:
        os._exit(code)


def _pack(path: str, last_ns: int) -> None:
    """``path`` as gzip.  It notes when the last entry was written, as Docker's do, and which file it was: who follows finds the next."""
    import zlib  # only this child needs it

    temporary = _temporary(path)
    with open(path, "rb") as source, open(temporary, "wb", opener=_private) as target:
        extra = b'{"lastTime":"%s","inode":%d}' % (rfc3339(last_ns), os.fstat(source.fileno()).st_ino)
        target.write(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra)  # RFC 1952
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        checksum = size = 0
        while block := source.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
            size += len(block)
            target.write(packer.compress(block))
        target.write(packer.flush() + struct.pack("<II", checksum, size & 0xFFFFFFFF))
    os.rename(temporary, f"{path}.gz")
    os.unlink(path)


def _temporary(path: str) -> str:
    return f"{path}.gz.new"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o640)
