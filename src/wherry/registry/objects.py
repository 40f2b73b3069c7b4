"""Where a registry keeps things: bytes under a key, as a directory of files or a bucket (``bucket.py``) has them.  Blocking.

A key is words joined by ``/``; no word is empty or begins with a dot. What has a key is whole and durable.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Protocol

from wherry.store.content import sync_directory

_PIECE = 1 << 20


class Objects(Protocol):
    """``FileNotFoundError`` from ``read``, ``size``, ``pieces``, ``modified``: there is no such key.

    >>> objects.write("tags/app/1", b"sha256:...")
    >>> objects.children("tags/app")
    ['1']
    """

    def read(self, key: str) -> bytes: ...
    def size(self, key: str) -> int: ...
    def exists(self, key: str) -> bool: ...
    def modified(self, key: str) -> float:
        """When it was written, in seconds since the epoch."""

    def write(self, key: str, data: bytes) -> None: ...
    def adopt(self, key: str, path: str) -> None:
        """The file at ``path``, in the data directory, becomes ``key``'s bytes, and ``path`` is gone."""

    def pieces(self, key: str, start: int, count: int) -> Iterator[bytes]: ...
    def local_path(self, key: str) -> str | None:
        """The file that holds just these bytes, where there is one."""

    def delete(self, key: str) -> None:
        """An absent key is success."""

    def children(self, prefix: str) -> list[str]:
        """The words that follow ``prefix/`` in any key, sorted, each once."""


class Directory:
    """Files below ``root``: written in ``staging`` (emptied when this is made; on the same file system), synced, renamed."""

    def __init__(self, root: str, staging: str) -> None:
        self._root = root
        self._staging = staging
        for directory in (root, staging):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            sync_directory(os.path.dirname(directory))

    def sweep(self) -> None:
        """At start: drop what was being written when the last server ended."""
        with os.scandir(self._staging) as entries:
            for entry in entries:
                os.unlink(entry.path)

    def read(self, key: str) -> bytes:
        with open(self._path(key), "rb") as file:
            return file.read()

    def size(self, key: str) -> int:
        return os.stat(self._path(key)).st_size

    def exists(self, key: str) -> bool:
        return os.path.exists(self._path(key))

    def modified(self, key: str) -> float:
        return os.stat(self._path(key)).st_mtime

    def write(self, key: str, data: bytes) -> None:
        temporary = os.path.join(self._staging, secrets.token_hex(16))
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            self._place(temporary, key)
        except BaseException:
            os.unlink(temporary)
            raise

    def adopt(self, key: str, path: str) -> None:
        os.utime(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._place(path, key)

    def pieces(self, key: str, start: int, count: int) -> Iterator[bytes]:
        with open(self._path(key), "rb") as file:
            file.seek(start)
            while count > 0 and (piece := file.read(min(_PIECE, count))):
                count -= len(piece)
                yield piece

    def local_path(self, key: str) -> str | None:
        return self._path(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        directory = os.path.dirname(path)
        with contextlib.suppress(FileNotFoundError):  # another has emptied and removed it
            sync_directory(directory)
        while directory != self._root:  # a word without followers is none
            try:
                os.rmdir(directory)
            except OSError:
                return
            directory = os.path.dirname(directory)

    def children(self, prefix: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _path(self, key: str) -> str:
        words = key.split("/")
        if not all(words) or any(word.startswith(".") or "\0" in word for word in words):
            raise ValueError(f"not a key: {key[:100]!r}")
        return os.path.join(self._root, *words)

    def _place(self, source: str, key: str) -> None:
        target = self._path(key)
        while True:
            try:
                self._make_parents(target)
                os.rename(source, target)
                break
            except FileNotFoundError:  # ``delete`` took an empty directory away meanwhile
                if not os.path.exists(source):
                    raise
            except FileExistsError:  # the same, between makedirs' two looks at it
                if os.path.isfile(os.path.dirname(target)):
                    raise
        with contextlib.suppress(FileNotFoundError):  # deleted again
            sync_directory(os.path.dirname(target))

    def _make_parents(self, path: str) -> None:
        directory = os.path.dirname(path)
        if os.path.isdir(directory):
            return
        os.makedirs(directory, mode=0o700, exist_ok=True)
        while directory != self._root:  # a new name must be as durable as the file below it
            directory = os.path.dirname(directory)
            sync_directory(directory)
