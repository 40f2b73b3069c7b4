"""Many records, told again in order: what does not fit into a bounded piece of memory waits, sorted, in a file."""

from __future__ import annotations

import heapq
import marshal
import os
from array import array
from collections.abc import Iterator
from typing import Final

_HELD: Final = 12 << 20  # bytes in memory, then they are sorted and written
_OVERHEAD: Final = 41  # of a bytes object, and its place in a list
_TOGETHER: Final = 128  # records that are read at once


class Log:
    """``scratch_fd``: an empty file; ``end``: how much of it is used."""

    def __init__(self, scratch_fd: int) -> None:
        self._fd = scratch_fd
        self._records: list[bytes] = []
        self._held = 0
        self._runs: list[tuple[int, array[int]]] = []  # where each begins, and the sizes of its parts
        self.end = 0

    def add(self, record: bytes) -> None:
        """Raises OSError."""
        self._records.append(record)
        self._held += len(record) + _OVERHEAD
        if self._held >= _HELD:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        """All records in the order of their bytes; not while more are added."""
        if not self._runs:
            self._records.sort()
            return iter(self._records)
        self._spill()
        return heapq.merge(*(self._run(start, sizes) for start, sizes in self._runs))

    def _spill(self) -> None:
        self._records.sort()
        sizes = array("I")
        start = self.end
        for first in range(0, len(self._records), _TOGETHER):
            part = marshal.dumps(self._records[first : first + _TOGETHER])
            write_at(self._fd, part, self.end)
            self.end += len(part)
            sizes.append(len(part))
        self._runs.append((start, sizes))
        self._records, self._held = [], 0

    def _run(self, start: int, sizes: array[int]) -> Iterator[bytes]:
        for size in sizes:
            yield from marshal.loads(os.pread(self._fd, size, start))
            start += size


def write_at(fd: int, data: bytes | bytearray | memoryview, position: int) -> None:
    """All of ``data``.  Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written
