"""Names and inodes on their way into an EROFS image, in any order: directories in arrays, all other names in a log that may lie on disk.

What a name stands for is decided at the end: of all that was put under one name the last counts. So nothing need be looked up while names
come, except directories and symlinks, and memory does not grow with the number of files.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

from wherry.tree.erofs_format import OWN_STARTS
from wherry.tree.erofs_log import Log

ROOT: Final = 0
NUMBER: Final = struct.Struct(">I")  # of directories and records: as bytes in their order
# Records: the directory's number, a name, a zero, the record's own number, one of these, and what belongs to that.
FILE, MADE, IMPLIED, LINK, ASKED = b"fdilq"
_FILE: Final = bytes((FILE,))


class Builder:
    """Takes the tree of one image; `erofs_writer.write` writes it.  ``scratch_fd``: an empty file for what does not fit into memory.

    ``starts``: the first block of each device, as in the inodes that are `put`. ``lowest``: nothing lies below, so no whiteout is kept.
    """

    def __init__(self, scratch_fd: int, starts: Sequence[int] = OWN_STARTS, *, lowest: bool = False) -> None:
        self.starts = starts
        self.lowest = lowest
        self.log = Log(scratch_fd)
        self.parents = array("I", [ROOT])
        self.modes = array("H", [0])
        self.uids = array("I", [0])
        self.gids = array("I", [0])
        self.times_ns = array("q", [0])
        self.attributes: dict[int, dict[str, bytes]] = {}  # of directories
        self.unsettled = False  # the writer must look for what is decided only by the order of records
        self.amended: dict[int, bytes] = {}  # inodes by the numbers of their records, which have others
        self._has_files = bytearray(1)  # of each directory, whether it ever had any
        self._number = 0

    def describe(self, directory: int, mode: int, uid: int, gid: int, mtime_ns: int) -> None:
        """``mode``: with or without the type."""
        self.modes[directory] = mode
        self.uids[directory] = uid
        self.gids[directory] = gid
        self.times_ns[directory] = mtime_ns

    def set_attributes(self, directory: int, attributes: Mapping[str, bytes]) -> None:
        self.attributes[directory] = {**self.attributes.get(directory, {}), **attributes}

    def make_directory(self, parent: int, name: bytes) -> int:
        """A new, empty directory in place of what has the name."""
        directory = self._new_directory(parent)
        self._add(parent, name, MADE, NUMBER.pack(directory))
        return directory

    def imply_directory(self, parent: int, name: bytes, path: str) -> int:
        """As `make_directory`, where nothing may have the name: else the writer raises NotADirectoryError for ``path``."""
        directory = self._new_directory(parent)
        self._add(parent, name, IMPLIED, NUMBER.pack(directory) + os.fsencode(path))
        self.unsettled = self.unsettled or bool(self._has_files[parent])
        return directory

    def put(self, directory: int, name: bytes, inode: bytes) -> int:
        """What is no directory: its inode with the attributes, as `pack_inode` gives it, and a symlink's target behind them.

        Returns the number of the record, to `amend` it.
        """
        self._number += 1
        self._has_files[directory] = True
        self.log.add(NUMBER.pack(directory) + name + b"\0" + NUMBER.pack(self._number) + _FILE + inode)
        return self._number

    def amend(self, number: int, inode: bytes) -> None:
        """What was put is another inode.  For few: they stay in memory."""
        self.amended[number] = inode

    def link(self, directory: int, name: bytes, target: tuple[int, bytes], fault: str) -> None:
        """One more name of what ``target``, directory and name, stands for now; ``fault``: the writer's error when it is no file."""
        self._add(*target, ASKED, NUMBER.pack(self._number + 2) + os.fsencode(fault))
        self._add(directory, name, LINK)
        self.unsettled = True

    def is_file(self, directory: int, name: bytes) -> bool:
        """Whether something that is no directory has the name now.  Reads the whole log: for messages of errors."""
        head = NUMBER.pack(directory) + name + b"\0"
        kinds = [record[len(head) + 4] for record in self.log if record.startswith(head)]
        return next((kind in (FILE, LINK) for kind in reversed(kinds) if kind != ASKED), False)

    def _new_directory(self, parent: int) -> int:
        self.parents.append(parent)
        for values in (self.modes, self.uids, self.gids, self.times_ns):
            values.append(0)
        self._has_files.append(False)
        return len(self.parents) - 1

    def _add(self, directory: int, name: bytes, kind: int, rest: bytes = b"") -> None:
        self._number += 1
        self.log.add(NUMBER.pack(directory) + name + b"\0" + NUMBER.pack(self._number) + bytes((kind,)) + rest)
