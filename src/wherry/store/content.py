"""Blobs by digest: manifests, configs, compressed layers.

A blob is written to a staging file, hashed on the way, checked, fsynced, and renamed to its digest; so what has a name is whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import BinaryIO, Self

from wherry.spec.digest import Digest, is_digest
from wherry.store.soundness import Finding, Tick, no_tick, quarantine
from wherry.tree.remove import remove, remove_content

_BLOCK = 1 << 20
_STAGED_S = 3600.0  # what nobody has open and nobody wrote to for so long was left behind


class ContentMismatch(ValueError):
    """The bytes received are not those that were promised."""


class Content:
    """The blobs under ``<data_root>/content/sha256``; what is on its way lies in ``<data_root>/staging``."""

    def __init__(self, data_root: str) -> None:
        self._data_root = data_root
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

    def set_aside(self, digest: Digest) -> None:
        """A damaged blob goes where nobody takes it for the true one; an absent one is success."""
        quarantine(self._data_root, self.path(digest), f"blob-{Digest(digest).hex}")

    def check(self, *, quick: bool, tick: Tick = no_tick) -> Iterator[Finding]:
        """Blobs that are not what they are called, and what was left on its way.  ``quick``: without reading them."""
        yield from self._check_blobs(quick=quick, tick=tick)
        open_files = _own_files()
        with os.scandir(self._staging_dir) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    if (facts.st_dev, facts.st_ino) not in open_files and time.time() - facts.st_mtime > _STAGED_S:
                        mend = partial(_remove_staged, entry.path)
                        yield Finding(subject=f"staging/{entry.name}", fact="was left behind", remedy="remove it", mend=mend)

    def _check_blobs(self, *, quick: bool, tick: Tick) -> Iterator[Finding]:
        with os.scandir(self._blobs_dir) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            tick()
            if not is_digest(f"sha256:{name}"):
                yield Finding(subject=f"content/sha256/{name}", fact="is not named as a blob is", remedy="look at it: it is left alone")
                continue
            digest = Digest(f"sha256:{name}")
            with suppress(FileNotFoundError):
                if not quick and file_digest(self.path(digest), tick) != digest:
                    mend = partial(self.set_aside, digest)
                    remedy = "set aside, until a pull or load brings it again"
                    yield Finding(subject=f"blob {digest}", fact="has other bytes than its name says", remedy=remedy, mend=mend)

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


def file_digest(path: str, tick: Tick = no_tick) -> Digest:
    """The digest of a file; ``tick`` is called now and then, and may raise.  Raises OSError."""
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            tick()
            found.update(block)
    return Digest(f"sha256:{found.hexdigest()}")


def _own_files() -> set[tuple[int, int]]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            facts = os.stat(f"/proc/self/fd/{name}")
            found.add((facts.st_dev, facts.st_ino))
    return found


def _remove_staged(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove(fd, os.path.basename(path))
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
