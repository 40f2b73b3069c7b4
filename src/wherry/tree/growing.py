"""A tar that lies in a file, read where its headers are: bodies are passed over. The file may still be growing."""

from __future__ import annotations

import os
import struct
from typing import Final

MARK: Final = struct.Struct("<Q")  # how much of the file is written
_WINDOW: Final = 64 << 10
_MARKS: Final = 1 << 16


class GrowingFile:
    """A `tar.Source` that can also skip.  ``marks_fd``: a pipe of `MARK`s, closed when the file is whole; None: it is already."""

    def __init__(self, fd: int, marks_fd: int | None = None) -> None:
        self._fd = fd
        self._marks_fd = marks_fd
        self._known = 0 if marks_fd is not None else os.fstat(fd).st_size
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none only at the end of the whole file."""
        self._wait(self._position + 1)
        data = os.pread(self._fd, min(size, _WINDOW, self._known - self._position), self._position)
        self._position += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over ``size`` bytes: how many there were."""
        self._wait(self._position + size)
        skipped = min(size, self._known - self._position)
        self._position += skipped
        return skipped

    def size(self) -> int:
        """Of the whole file."""
        while self._marks_fd is not None:
            self._hear()
        return self._known

    def _wait(self, wanted: int) -> None:
        while self._known < wanted and self._marks_fd is not None:
            self._hear()

    def _hear(self) -> None:
        assert self._marks_fd is not None
        marks = os.read(self._marks_fd, _MARKS)
        if not marks:
            self._marks_fd = None
        else:
            (self._known,) = MARK.unpack_from(marks, len(marks) - MARK.size)
