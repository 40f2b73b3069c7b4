"""Sparse files of an archive, laid one behind the other in a sparse file, where their holes are holes."""

from __future__ import annotations

import os
from typing import Final

from wherry.tree.erofs_log import write_at
from wherry.tree.tar import Entry, InvalidArchive
from wherry.tree.tar_reader import Reader

_MOST_BYTES: Final = 1 << 40
_PAGE: Final = 4096


class SparseFiles:
    """``fd``: an empty file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = 0

    def copy(self, entry: Entry, reader: Reader) -> int:
        """Where the current entry, whose segments are known, has its place.  Raises InvalidArchive, OSError."""
        place = self.room(entry.size)
        os.ftruncate(self._fd, self._end)  # first, as in `Reader.copy_to`
        for offset, length in entry.segments or ():
            position, end = place + offset, place + offset + length
            while position < end:
                data = reader.read(end - position)
                write_at(self._fd, data, position)
                position += len(data)
        return place

    def room(self, size_bytes: int) -> int:
        """A place for so many bytes."""
        place = self._end
        self._end += size_bytes + -size_bytes % _PAGE
        if self._end > _MOST_BYTES:
            raise InvalidArchive(f"archive with sparse files of more than {_MOST_BYTES} bytes")
        return place
