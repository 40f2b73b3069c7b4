"""Downloads that were broken off, kept by digest so that the next pull goes on where the last one ended, whoever ended it.

A partial file promises nothing: its bytes are hashed again before the download goes on, and the whole is checked against the digest
before it becomes a blob. It belongs to one registry: what that one withholds keeps nobody from getting it elsewhere. Blocking.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self

from wherry.images.arrivals import Arrival, Broken
from wherry.spec.digest import Digest, is_digest, sha256
from wherry.store.content import Content, ContentMismatch, sync_directory

KEPT_S = 24 * 3600  # what nobody came back for within a day goes
_BLOCK = 1 << 20


class Partials:
    """The unfinished blobs in one directory, on the file system of ``content``."""

    def __init__(self, directory: str, content: Content) -> None:
        self._directory = directory
        self.content = content
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def open(self, digest: Digest, size: int, *, source: str = "", arrival: Arrival | None = None) -> Partial:
        """Go on with ``digest``, of ``size`` bytes, from the registry ``source``: ``read_again`` first.

        Raises BlockingIOError while somebody else does, OSError. ``arrival``: told what can be read.
        """
        name = f"{Digest(digest).hex}-{sha256(source.encode()).hex[:8]}"
        return Partial(self.content, os.path.join(self._directory, name), Digest(digest), size, arrival or Arrival())

    def sweep(self, kept_s: float = KEPT_S, served: Collection[str] = ()) -> int:
        """Delete what nobody has written to for ``kept_s``, and what has become a blob or ``served`` its purpose: the bytes freed."""
        freed = 0
        oldest = time.time() - kept_s
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it has served meanwhile
                    facts = entry.stat(follow_symlinks=False)
                    digest = _digest_of(entry.name)
                    is_useless = facts.st_mtime < oldest or digest is None or digest in served or self.content.has(digest)
                    if is_useless and _remove_idle(entry.path):
                        freed += facts.st_size
        return freed

    def sizes(self) -> dict[Digest, int]:
        """How much of each blob is here."""
        found = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if (digest := _digest_of(entry.name)) is not None:
                    with contextlib.suppress(FileNotFoundError):  # it has served meanwhile
                        found[digest] = entry.stat().st_size
        return found


class Partial:
    """One blob on its way.  Leaving the context keeps what has come, unless the bytes proved wrong or the disk is full.

    Who writes and who closes may be in different threads: the last one who wanted the blob does not wait for the end of a download that
    is cancelled. A descriptor that is closed under a writer would soon be another file's.
    """

    def __init__(self, content: Content, path: str, digest: Digest, size: int, arrival: Arrival) -> None:
        self._content = content
        self._path = path
        self._arrival = arrival
        self._digest = digest
        self._size = size
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self._is_named = True
        self._lock = threading.RLock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._fd).st_nlink == 0:
                raise BlockingIOError(errno.EAGAIN, "removed meanwhile", path)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def read_again(self) -> None:
        """Hash what is here."""
        with self._open() as fd:
            if os.fstat(fd).st_size > self._size:
                os.ftruncate(fd, 0)
            while block := os.pread(fd, _BLOCK, self.size_bytes):
                self.size_bytes += len(block)
                self._arrival.reach(self.size_bytes)
                self._hash.update(block)
            os.lseek(fd, self.size_bytes, os.SEEK_SET)

    def reader_fd(self) -> int:
        """A descriptor of its own for somebody who reads what comes.  Raises Broken when nothing does any more.

        Opened anew: one that was only duplicated would hold the writer's lock for as long as the reader, who may notice late that he is not
        wanted any more, has not closed it.
        """
        with self._open() as fd:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)

    def write(self, data: bytes | memoryview) -> None:
        """Append.  Raises OSError; with ENOSPC what had come is given up, so that a full disk can be left; Broken once it is closed."""
        rest = memoryview(data)
        with self._open() as fd:
            try:
                while rest:
                    rest = rest[os.write(fd, rest) :]
            except OSError as error:
                error.filename = self._path
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    self.discard()
                raise
            self.size_bytes += len(data)
            self._arrival.reach(self.size_bytes)
            self._hash.update(data)

    def restart(self) -> None:
        """From the first byte again: what was here before is not what the registry has.  Raises Broken."""
        with self._open() as fd:
            self._arrival.fail()
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            self._hash = hashlib.sha256()
            self.size_bytes = 0

    @property
    def is_whole(self) -> bool:
        """Whether the bytes are those of the digest."""
        return self.size_bytes == self._size and self._hash.hexdigest() == self._digest.hex

    def check(self) -> None:
        """Raises ContentMismatch, and keeps nothing then, unless it is whole."""
        if not self.is_whole:
            self.discard()
            raise ContentMismatch(f"filesystem layer verification failed for digest {self._digest}")

    def commit(self) -> None:
        """Make it a blob, durably.  Raises ContentMismatch, and keeps nothing then; Broken once it is closed."""
        self.check()
        target = self._content.path(self._digest)
        with self._open() as fd:
            os.fsync(fd)
            os.rename(self._path, target)
            sync_directory(os.path.dirname(target))
            self._close()

    def discard(self) -> None:
        """Keep nothing."""
        with self._lock:
            if self._fd >= 0:
                self._arrival.fail()
                os.ftruncate(self._fd, 0)
                self.close()

    def remove(self) -> None:
        """It has served: its name goes.  ``close`` gives its room back, which takes a while when there is much of it."""
        with self._lock:
            if self._fd >= 0:
                os.unlink(self._path)
                self._is_named = False
                return
        with contextlib.suppress(FileNotFoundError):  # whoever wrote it gave up already
            _remove_idle(self._path)

    def close(self) -> None:
        """Keep what has come.  Nothing after ``commit`` and ``discard``."""
        with self._lock:
            if self._fd >= 0:
                try:
                    if self._is_named and os.fstat(self._fd).st_size == 0:
                        os.unlink(self._path)
                finally:
                    self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        """The descriptor, which stays open meanwhile."""
        with self._lock:
            if self._fd < 0:
                raise Broken
            yield self._fd


def _digest_of(name: str) -> Digest | None:
    """What the file ``name`` is part of; None for a stranger."""
    text = f"sha256:{name.partition('-')[0]}"
    return Digest(text) if is_digest(text) else None


def _remove_idle(path: str) -> bool:
    """Unlink ``path`` unless somebody writes it; whether it went.  Raises FileNotFoundError for one that is not there."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 0:  # the name may be that of another file by now
            return False
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(fd)
    return True
