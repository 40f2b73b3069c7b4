"""Blobs by digest: manifests, configs, compressed layers.

A blob is written to a staging file, hashed on the way, checked, fsynced, and renamed to its digest; so what has a name is whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from wherry.spec.digest import Digest, is_digest
from wherry.tree.remove import remove_content


class ContentMismatch(ValueError):
    """The bytes received are not those that were promised."""


class Content:
    """The blobs under ``<data_root>/content/sha256``; what is on its way lies in ``<data_root>/staging``."""

    def __init__(self, data_root: str) -> None:
        self._blobs_dir = os.path.join(data_root, "content", "sha256")
        self._staging_dir = os.path.join(data_root, "staging")
        for directory in (self._blobs_dir, self._staging_dir):
            os.makedirs(directory, mode=0o700, exist_ok=True)

    def path(self, digest: Digest) -> str:
        """Where the blob is, or would be.  Raises ValueError for a string that is no digest."""
        return os.path.join(self._blobs_dir, Digest(digest).hex)

    def has(self, digest: Digest) -> bool:
        return os.path.exists(self.path(digest))

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading.  Raises FileNotFoundError."""
        return open(self.path(digest), "rb")

    def read(self, digest: Digest, limit: int = 8 << 20) -> bytes:
        """A small blob whole.  Raises FileNotFoundError, ContentMismatch when the disk holds other bytes or more than ``limit``."""
        with self.open(digest) as blob:
            data = blob.read(limit + 1)
        if len(data) > limit or hashlib.sha256(data).hexdigest() != Digest(digest).hex:
            raise ContentMismatch(f"content {digest} is damaged")
        return data

    def size(self, digest: Digest) -> int:
        return os.stat(self.path(digest)).st_size

    def delete(self, digest: Digest) -> None:
        """Remove the blob; an absent one is success. Readers that have it open keep it."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            pass

    def digests(self) -> Iterator[Digest]:
        """Every blob, in no order."""
        with os.scandir(self._blobs_dir) as entries:
            for entry in entries:
                if is_digest(f"sha256:{entry.name}"):
                    yield Digest(f"sha256:{entry.name}")

    def ingest(self, limit: int | None = None) -> Writer:
        """A new blob; ``limit`` is the largest size it may reach."""
        return Writer(self, self._staging_dir, limit)

    def sweep(self) -> None:
        """At start: drop what was on its way when the last daemon ended."""
        fd = os.open(self._staging_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_content(fd)
        finally:
            os.close(fd)

    def put(self, data: bytes) -> Digest:
        """Store ``data`` whole."""
        with self.ingest() as writer:
            writer.write(data)
            return writer.commit(None, None)


class Writer:
    """A blob on its way.  Leaving the context without ``commit`` leaves nothing."""

    def __init__(self, content: Content, staging_dir: str, limit: int | None) -> None:
        self._content = content
        self._limit = limit
        self._hash = hashlib.sha256()
        self._path = os.path.join(staging_dir, f"blob-{secrets.token_hex(8)}")
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()

    @property
    def digest(self) -> Digest:
        """The digest of what has been written so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data``.  Raises ContentMismatch beyond the limit, OSError (ENOSPC) when the disk is full."""
        self.size_bytes += len(data)
        if self._limit is not None and self.size_bytes > self._limit:
            raise ContentMismatch(f"content is larger than the {self._limit} bytes expected")
        self._hash.update(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            error.filename = self._path
            raise
        return len(data)

    def commit(self, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Make the blob exist, durably.  Raises ContentMismatch when its digest or size is not the one expected."""
        digest = self.digest
        if size is not None and size != self.size_bytes:
            raise ContentMismatch(f"content has {self.size_bytes} bytes, expected {size}")
        if expected is not None and expected != digest:
            raise ContentMismatch(f"content has digest {digest}, expected {expected}")
        target = self._content.path(digest)
        os.fsync(self._fd)
        os.rename(self._path, target)
        os.close(self._fd)
        self._fd = -1
        sync_directory(os.path.dirname(target))
        return digest

    def abort(self) -> None:
        """Drop what was written; nothing after ``commit``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            os.unlink(self._path)


def sync_directory(path: str) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
