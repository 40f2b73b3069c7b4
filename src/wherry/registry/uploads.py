"""Blobs on their way into a registry: files that grow by chunks, may wait for days, and outlive the server.  Blocking.

An upload's name is 256 random bits, and its file's name is a digest of repository and upload: who does not know both finds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import threading
import time

from wherry.registry.naming import AnyDigest

KEPT_S = 7 * 24 * 3600
MOST = 10_000
"""Uploads that are unfinished at a time: each is a file."""

_IDENT = re.compile(r"[A-Za-z0-9_-]{43}")
_BLOCK = 1 << 20
_MOST_PIECES = 8  # of one writev(2), and of one block that is hashed


class UploadBusy(Exception):
    """Another request writes to the same upload."""


class TooManyUploads(Exception):
    """As many as there may be are unfinished."""


class WrongDigest(Exception):
    """The bytes sent are not the blob they were said to be; ``args[0]``: their digest."""


class Uploads:
    """The unfinished uploads in one directory.  Usable from any thread."""

    def __init__(self, directory: str, *, most: int = MOST) -> None:
        self._directory = directory
        self._most = most
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._hashes: dict[str, tuple[int, hashlib._Hash]] = {}  # path -> how far it was hashed
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._count = len(os.listdir(directory))

    def begin(self, name: str) -> str:
        """Raises TooManyUploads, OSError."""
        ident = secrets.token_urlsafe(32)
        with self._lock:
            if self._count >= self._most:
                raise TooManyUploads
            self._count += 1
        try:
            with open(self._path(name, ident), "xb"):
                pass
        except BaseException:
            self._gone()
            raise
        return ident

    def size(self, name: str, ident: str) -> int:
        """How much has come.  Raises FileNotFoundError."""
        return os.stat(self._path(name, ident)).st_size

    def open(self, name: str, ident: str) -> Upload:
        """Raises FileNotFoundError, UploadBusy."""
        path = self._path(name, ident)
        with self._lock:
            if path in self._open:
                raise UploadBusy(ident)
            upload = Upload(self, path, *self._hashes.pop(path, (0, hashlib.sha256())))
            self._open.add(path)
            return upload

    def cancel(self, name: str, ident: str) -> None:
        """Raises FileNotFoundError, UploadBusy."""
        with self.open(name, ident) as upload:
            upload.discard()

    def sweep(self, kept_s: float = KEPT_S) -> int:
        """Give up what nobody wrote to for so long; how many."""
        count = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with self._lock:
                    try:
                        if entry.stat().st_mtime >= time.time() - kept_s or entry.path in self._open:
                            continue
                        os.unlink(entry.path)
                    except FileNotFoundError:  # it was finished meanwhile
                        continue
                    self._hashes.pop(entry.path, None)
                self._gone()
                count += 1
        return count

    def closed(self, path: str, hashed: tuple[int, hashlib._Hash] | None) -> None:
        """The upload at ``path`` is in nobody's hands; ``hashed`` is None when it is no more."""
        with self._lock:
            self._open.discard(path)
            if hashed is not None:
                self._hashes[path] = hashed
        if hashed is None:
            self._gone()

    def _gone(self) -> None:
        with self._lock:
            self._count -= 1

    def _path(self, name: str, ident: str) -> str:
        if not _IDENT.fullmatch(ident):
            raise FileNotFoundError(ident[:100])
        return os.path.join(self._directory, hashlib.sha256(f"{name}\n{ident}".encode()).hexdigest())


class Upload:
    """One upload in the hands of one request.  Leaving the context keeps what has come, for the next chunk, unless its file is gone."""

    def __init__(self, uploads: Uploads, path: str, hashed: int, running: hashlib._Hash) -> None:
        self.path = path
        self._uploads = uploads
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._fd).st_size
        self._hashed, self._hash = hashed, running

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._uploads.closed(self.path, (self._hashed, self._hash) if os.path.exists(self.path) else None)

    def write(self, data: bytes) -> None:
        self.append([data])

    def append(self, pieces: list[bytes]) -> None:
        """Add ``pieces`` at the end.  Raises OSError (ENOSPC); what did fit stays."""
        if len(pieces) > _MOST_PIECES:
            pieces = [b"".join(pieces)]
        begun = self.size_bytes
        rest: list[memoryview | bytes] = list(pieces)
        while rest:
            count = os.writev(self._fd, rest)
            self.size_bytes += count
            while rest and count >= len(rest[0]):
                count -= len(rest.pop(0))
            if count:
                rest[0] = memoryview(rest[0])[count:]
        if self._hashed == begun:
            for piece in pieces:
                self._hash.update(piece)
            self._hashed = self.size_bytes

    def cut(self, size_bytes: int) -> None:
        """Forget what came after the first ``size_bytes``."""
        if size_bytes < self.size_bytes:
            os.ftruncate(self._fd, size_bytes)
            self.size_bytes = size_bytes
            if self._hashed > size_bytes:
                self._hashed, self._hash = 0, hashlib.sha256()

    def check(self, digest: AnyDigest) -> None:
        """The whole file's bytes are ``digest``'s.  Raises WrongDigest, and nothing stays then."""
        if digest.algorithm == "sha256":
            self._hashed = self._hash_from(self._hashed, self._hash)
            found = self._hash.hexdigest()
        else:
            other = hashlib.new(digest.algorithm)
            self._hash_from(0, other)
            found = other.hexdigest()
        if found != digest.hex:
            self.discard()
            raise WrongDigest(f"{digest.algorithm}:{found}")

    def discard(self) -> None:
        """Keep nothing."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _hash_from(self, start: int, running: hashlib._Hash) -> int:
        while block := os.pread(self._fd, _BLOCK, start):
            running.update(block)
            start += len(block)
        return start
