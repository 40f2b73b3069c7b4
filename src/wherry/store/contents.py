"""What is in one layer, read where it lies: neither unpacked nor mounted, and never more of it in memory than one directory's names.

A snapshotter's ``contents(name)`` gives a ``Contents``. Names come in the order of their bytes, so that several layers can be walked side
by side. Marks are shown as overlayfs has them: a whiteout is a character device 0/0, an opaque directory has ``is_opaque``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, Self

from wherry.kernel import files
from wherry.tree.apply import OVERLAY_OPAQUE, is_portable_attribute

_CHUNK = 1 << 20


@dataclass(slots=True, kw_only=True)
class Item:
    """One inode of a layer.  Not frozen only because many thousands are made a second; treat it as a value.

    ``identity``: the same for all names of one inode of this layer; ``links``: how many those are. ``place``: for whoever made it.
    """

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str = ""
    rdev: int = 0
    identity: int = 0
    links: int = 1
    is_opaque: bool = False
    place: object = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.mode) and self.rdev == 0


class Contents(AbstractContextManager["Contents"], Protocol):
    """One layer's own changes, for one thread; closed by leaving its context.  All may raise OSError, and ValueError for a damaged one."""

    def root(self) -> Item: ...

    def children(self, directory: Item) -> Iterator[tuple[bytes, Item]]:
        """Names and items in a directory, in the order of the names' bytes; may be left off anywhere."""
        ...

    def attributes(self, item: Item) -> Mapping[str, bytes]:
        """Extended attributes that travel with an image."""
        ...

    def data(self, item: Item) -> Iterator[bytes]:
        """The bytes of a regular file, in pieces."""
        ...


@dataclass(slots=True, kw_only=True)
class Selection:
    """Which paths of a whole tree are one layer's, for snapshots that are whole copies.

    ``present``: its own paths and those of the directories they are in; ``gone``: names it deleted, by the directory they were in.
    """

    present: frozenset[bytes] = frozenset()
    gone: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)


class DirectoryContents:
    """A layer that is a directory: an upper directory of overlayfs, or with ``selection`` a part of a whole tree.

    Paths are opened strictly beneath it and no symlink is followed.
    """

    def __init__(self, path: str, selection: Selection | None = None) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._selection = selection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def root(self) -> Item:
        return _item(os.fstat(self._fd), b"", opaque=self._is_opaque(self._fd))

    def children(self, directory: Item) -> Iterator[tuple[bytes, Item]]:
        path = _path(directory)
        fd = files.open_beneath(self._fd, path or b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            gone = self._selection.gone.get(path, ()) if self._selection else ()
            names = [os.fsencode(name) for name in os.listdir(fd)]
            for name in sorted([*self._chosen(path, names), *gone]):
                if name in gone:
                    yield name, Item(mode=stat.S_IFCHR, uid=0, gid=0, size=0, mtime_ns=0)
                    continue
                try:
                    yield name, self._child(fd, name, path)
                except FileNotFoundError:
                    continue  # removed meanwhile
        finally:
            os.close(fd)

    def attributes(self, item: Item) -> Mapping[str, bytes]:
        if not stat.S_ISREG(item.mode) and not item.is_directory:
            return {}
        with self._opened(item) as fd:
            names = os.listxattr(fd)
            return {name: os.getxattr(fd, name) for name in names if is_portable_attribute(name)}

    def data(self, item: Item) -> Iterator[bytes]:
        with self._opened(item) as fd:
            while data := os.read(fd, _CHUNK):
                yield data

    def _chosen(self, path: bytes, names: list[bytes]) -> list[bytes]:
        if self._selection is None:
            return names
        present = self._selection.present
        return [name for name in names if _joined(path, name) in present]

    def _child(self, fd: int, name: bytes, path: bytes) -> Item:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        item = _item(status, _joined(path, name))
        if stat.S_ISLNK(status.st_mode):
            item.link = os.fsdecode(os.readlink(name, dir_fd=fd))
        elif item.is_directory and self._selection is None:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                item.is_opaque = self._is_opaque(inner)
            finally:
                os.close(inner)
        return item

    def _is_opaque(self, fd: int) -> bool:
        try:
            return self._selection is None and os.getxattr(fd, OVERLAY_OPAQUE) == b"y"
        except OSError:
            return False

    def _opened(self, item: Item) -> _Opened:
        return _Opened(files.open_beneath(self._fd, _path(item) or b".", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))


class _Opened:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _item(status: os.stat_result, place: bytes, *, opaque: bool = False) -> Item:
    regular = stat.S_ISREG(status.st_mode)
    return Item(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if regular else 0,
        mtime_ns=status.st_mtime_ns,
        rdev=status.st_rdev,
        identity=status.st_ino,
        links=1 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
        is_opaque=opaque,
        place=place,
    )


def _path(item: Item) -> bytes:
    assert isinstance(item.place, bytes)
    return item.place


def _joined(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


Opener = Callable[[str], Contents]  # a committed snapshot's name -> its own layer
