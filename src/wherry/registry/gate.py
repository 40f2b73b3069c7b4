"""Who may change what a registry holds: many at a time who add, or one who collects garbage, in whatever process.  Blocking.

A lock of the file belongs to the process's open descriptor and goes with it, so a killed collector locks nobody out.  Source: flock(2).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    def __init__(self, path: str) -> None:
        self._path = path

    @contextmanager
    def adding(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def collecting(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)


def serve_alone(path: str) -> int:
    """A descriptor that says this process serves the directory, until it is closed.  Raises BlockingIOError when another does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd
