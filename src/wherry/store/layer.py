"""Layers as streams and directories: hash while another thread unpacks, hash while packing, copy."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Self

from wherry.spec.digest import Digest
from wherry.tree.apply import OVERLAY_OPAQUE
from wherry.tree.copy import CopyOptions, copy_tree
from wherry.tree.tar import Sink, Source

_AHEAD = 8  # chunks that may wait for the hash
_TOGETHER = 128 << 10  # small pieces are handed over so many bytes at a time


class DigestMismatch(ValueError):
    """A layer's bytes are not those its image promised."""


class NullSink:
    """Takes a layer that is only hashed."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        return len(data)


class Background:
    """Hands pieces to ``take`` in a thread of its own, which may be a few behind; leaving the context ends it."""

    def __init__(self, take: Callable[[bytes | memoryview], object]) -> None:
        self._take = take
        self._queue: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

    def put(self, data: bytes | memoryview) -> None:
        """``data`` does not change afterwards.  Raises what ``take`` raised for an earlier piece."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="layer", daemon=True)
            self._thread.start()
        self._room.acquire()
        if self._failure is not None:
            raise self._failure
        self._queue.put(data)

    def finish(self) -> None:
        """Wait for the last piece.  Raises what ``take`` raised."""
        self._join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                if self._failure is None:
                    self._take(data)
            except Exception as error:  # noqa: BLE001 - raised where pieces come from
                self._failure = error
            self._room.release()

    def _join(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None


class BackgroundHash:
    """SHA-256 in a thread of its own; `digest` ends it, so does leaving the context."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._background = Background(self._hash.update)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.__exit__()

    def update(self, data: bytes | memoryview) -> None:
        """``data`` does not change afterwards."""
        self._background.put(data)

    def digest(self) -> Digest:
        """The digest of everything so far."""
        self._background.finish()
        return Digest("sha256:" + self._hash.hexdigest())


class HashingSource:
    """Reads from ``source`` and hashes the same bytes in the background; `digest` ends that, so does leaving the context."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = BackgroundHash()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hash.__exit__()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> Digest:
        """The digest of everything read."""
        return self._hash.digest()


class HashingSink:
    """Passes what is written on to ``out`` and hashes it in the background; `digest` ends that, so does leaving the context."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._hash = BackgroundHash()
        self._small: list[bytes | memoryview] = []
        self._small_size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hash.__exit__()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """``data`` does not change afterwards, unless it is a bytearray."""
        self._small.append(bytes(data) if isinstance(data, bytearray) else data)
        self._small_size += len(data)
        if self._small_size >= _TOGETHER:
            self._hand_over()
        write_all(self._out, data)
        return len(data)

    def digest(self) -> Digest:
        """The digest of everything written."""
        self._hand_over()
        return self._hash.digest()

    def _hand_over(self) -> None:
        if self._small:
            self._hash.update(self._small[0] if len(self._small) == 1 else b"".join(self._small))
            self._small, self._small_size = [], 0


def write_all(out: Sink, data: bytes | bytearray | memoryview) -> None:
    """Write everything: a raw file may take less at once.  What is taken whole is handed on as it is, so that nobody has to copy it."""
    while data:
        written = out.write(data)
        data = memoryview(data)[written if isinstance(written, int) else len(data) :]


def copy_directory(source: str, target: str) -> None:
    """Copy a layer's own directory, with the marks of opaque directories."""
    source_fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copy_tree(source_fd, target_fd, CopyOptions(attributes=frozenset({OVERLAY_OPAQUE})))
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def hash_only(stream: Source, expected: Digest | None) -> Digest:
    """The diff_id of a layer that is there already.  Raises DigestMismatch."""
    with HashingSource(stream) as source:
        while source.read(1 << 20):
            pass
        diff_id = source.digest()
    check_digest(diff_id, expected)
    return diff_id


def check_digest(diff_id: Digest, expected: Digest | None) -> None:
    """Raises DigestMismatch, unless nothing was expected."""
    if expected is not None and diff_id != expected:
        raise DigestMismatch(f"layer has diff_id {diff_id}, expected {expected}")
