"""An archive, entry by entry, as the names that a directory would have when it were unpacked there; bodies are only places in the archive.

What an entry does to the tree is what `tree.apply` does to a directory. All is in memory, so that this is for archives that are not kept:
for a layer see `erofs_tree`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from wherry.tree.apply import bad_link, check_symlink, clean
from wherry.tree.directories import Directories
from wherry.tree.erofs_tree import attributes_of
from wherry.tree.listing import PATH_BYTES, Listing
from wherry.tree.sparse import SparseFiles
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_reader import Reader

TAR: Final = 0  # where bytes lie: in the archive, or in the file that holds its sparse files
SPARSE: Final = 1
_MAX_NAME: Final = 255
_MODES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


class _Folder:
    """``children``: a directory, or the number of another inode; ``length``: bytes of its path."""

    __slots__ = ("children", "inode", "length")

    def __init__(self, inode: int, length: int) -> None:
        self.children: dict[str, _Folder | int] = {}
        self.inode = inode
        self.length = length


class ListingTree:
    """Takes the entries of an archive in order.  ``sparse_fd``: an empty file that takes its sparse files."""

    def __init__(self, sparse_fd: int) -> None:
        self._sparse = SparseFiles(sparse_fd)
        self._listing = Listing()
        self._root = _Folder(self._new_inode(stat.S_IFDIR | 0o755, 0), -1)
        self._folders = Directories(self._root, self._look, self._imply, self._fault)

    def add(self, entry: Entry, reader: Reader) -> None:
        """Raises InvalidArchive, OSError."""
        path = clean(entry.name)
        if not path:
            return  # the directory itself, which nobody copies
        parent, _, name = path.rpartition("/")
        folder = self._folders.known.get(parent) if parent else self._root
        if folder is None:
            folder = self._folders.find(parent, entry.mtime_ns)
        kind = entry.kind
        if kind is Kind.DIRECTORY:
            self._add_directory(entry, path, folder, name)
            return
        if kind is Kind.HARDLINK:
            self._add_link(entry, path, folder, name)
            return
        self._length(folder, name, path)
        if name in folder.children:
            self._remove(folder, name)
        if kind is Kind.FILE and entry.segments is None:
            inode = self._new_inode(stat.S_IFREG | entry.mode, entry.mtime_ns, entry.size, TAR, reader.offset)
        elif kind is Kind.FILE:
            inode = self._new_inode(stat.S_IFREG | entry.mode, entry.mtime_ns, entry.size, SPARSE, self._sparse.copy(entry, reader))
        elif kind is Kind.SYMLINK:
            check_symlink(entry)
            inode = self._new_inode(stat.S_IFLNK | 0o777, entry.mtime_ns)
            self._listing.links[inode] = entry.link
        else:
            inode = self._new_inode(_MODES[kind] | entry.mode, entry.mtime_ns)
        if entry.xattrs and kind is Kind.FILE:
            self._describe(inode, entry)
        folder.children[name] = inode

    def finish(self) -> Listing:
        """All of it; nothing may be added later."""
        listing = self._listing
        open_folders: list[Iterator[tuple[str, _Folder | int]]] = [iter(sorted(self._root.children.items()))]
        while open_folders:
            depth = len(open_folders) - 1
            for name, one in open_folders[-1]:
                listing.names.append(name)
                listing.depths.append(depth)
                if isinstance(one, _Folder):
                    listing.inodes.append(one.inode)
                    open_folders.append(iter(sorted(one.children.items())))
                    break
                listing.inodes.append(one)
            else:
                open_folders.pop()
        return listing

    def _new_inode(self, mode: int, mtime_ns: int, size: int = 0, device: int = 0, offset: int = 0) -> int:
        listing = self._listing
        listing.modes.append(mode)
        listing.times_ns.append(mtime_ns)
        listing.sizes.append(size)
        listing.devices.append(device)
        listing.offsets.append(offset)
        return len(listing.modes) - 1

    def _describe(self, inode: int, entry: Entry) -> None:
        attributes = attributes_of(entry, {})
        if any("\0" in name for name in attributes):
            raise InvalidArchive(f"tar entry {entry.name!r} with a null byte in the name of an attribute")
        if attributes:
            self._listing.attributes[inode] = tuple((name, value.hex()) for name, value in attributes.items())

    def _add_directory(self, entry: Entry, path: str, parent: _Folder, name: str) -> None:
        folder = parent.children.get(name)
        if not isinstance(folder, _Folder):
            if folder is not None:
                self._remove(parent, name)
            folder = self._new_folder(parent, name, path, entry.mtime_ns)
        self._listing.modes[folder.inode] = stat.S_IFDIR | entry.mode
        self._listing.times_ns[folder.inode] = entry.mtime_ns
        self._folders.remember(path, folder)

    def _add_link(self, entry: Entry, path: str, folder: _Folder, name: str) -> None:
        target = clean(entry.link)
        if target == path:
            return
        self._length(folder, name, path)
        self._remove(folder, name)  # before the target is looked for, as it may be below
        parent, _, last = target.rpartition("/")
        try:
            inode = self._folders.find(parent).children.get(last)
        except OSError:
            raise bad_link(entry) from None
        if inode is None or isinstance(inode, _Folder):
            raise bad_link(entry)
        self._listing.shared.add(inode)
        folder.children[name] = inode

    def _remove(self, folder: _Folder, name: str) -> None:
        found = folder.children.pop(name, None)
        if isinstance(found, _Folder) or found in self._listing.links:
            self._folders.known.clear()  # paths may lead elsewhere from now on

    def _imply(self, parent: _Folder, name: str, path: str, mtime_ns: int) -> _Folder:
        """A directory that no entry has told of yet, where nothing may have the name."""
        if name in parent.children:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return self._new_folder(parent, name, path, mtime_ns)

    def _new_folder(self, parent: _Folder, name: str, path: str, mtime_ns: int) -> _Folder:
        length = self._length(parent, name, path)
        folder = parent.children[name] = _Folder(self._new_inode(stat.S_IFDIR | 0o755, mtime_ns), length)
        return folder

    def _length(self, folder: _Folder, name: str, path: str) -> int:
        """Of a new name's path, in bytes.  Raises OSError where no file system would take it."""
        own = len(name) if name.isascii() else len(os.fsencode(name))
        length = folder.length + 1 + own
        if own > _MAX_NAME or length > PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        return length

    def _look(self, folder: _Folder, name: str) -> _Folder | str | None:
        found = folder.children.get(name)
        return self._listing.links.get(found) if isinstance(found, int) else found

    def _fault(self, folder: _Folder, name: str) -> int:
        return errno.ENOTDIR if name in folder.children else errno.ENOENT
