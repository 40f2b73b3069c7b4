"""A cache's blobs within a bound: what was read longest ago goes first, and is fetched again should anybody want it.  Blocking.

When a blob was read is the time of its file: a server that is started again knows it too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading

from wherry.registry.holdings import Holdings
from wherry.registry.naming import AnyDigest

log = logging.getLogger(__name__)


class Bound:
    """Of blobs in a directory.  Usable from any thread."""

    def __init__(self, holdings: Holdings, most_bytes: int) -> None:
        """``most_bytes``: of all blobs together, without those that are on their way."""
        self._holdings = holdings
        self._most = most_bytes
        self._lock = threading.Lock()
        self._held = 0
        with self._lock:
            self._evict()

    def was_read(self, digest: AnyDigest) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(digest))

    def has_grown(self, count: int) -> None:
        """A blob of ``count`` bytes has come: make room, if that was too much."""
        with self._lock:
            self._held += count
            if self._held > self._most:
                self._evict()

    def _evict(self) -> None:
        """Look at what there is, and leave nine tenths of what may be, so that the next blob does not make all be looked at again."""
        blobs = sorted(self._blobs())
        self._held = sum(size for _, size, _ in blobs)
        if self._held <= self._most:
            return
        before = self._held
        for _, size, digest in blobs:
            if self._held <= self._most * 9 // 10:
                break
            self._holdings.drop_blob(digest)
            self._held -= size
        log.info("made room: %d bytes are kept, %d went", self._held, before - self._held)

    def _blobs(self) -> list[tuple[float, int, AnyDigest]]:
        found = []
        for digest in self._holdings.all_blobs():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                facts = os.stat(self._path(digest))
                found.append((facts.st_mtime, facts.st_size, digest))
        return found

    def _path(self, digest: AnyDigest) -> str:
        path = self._holdings.local_path(digest)
        if path is None:
            raise ValueError("a bound is for blobs in a directory")
        return path
