"""A layer's tar, entry by entry, as the names and inodes of an image: where file bodies are only places in the tar.

What an archive's entry does to the tree is what `tree.apply` does to a directory, so that all snapshotters show the same.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final

from wherry.tree.apply import OPAQUE, OVERLAY_OPAQUE, WHITEOUT, bad_link, check_symlink, clean, is_portable_attribute
from wherry.tree.directories import Directories
from wherry.tree.erofs_builder import NUMBER, ROOT, Builder
from wherry.tree.erofs_format import BLOCK, encode_attributes, pack_inode
from wherry.tree.erofs_log import write_at
from wherry.tree.sparse import SparseFiles
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_reader import Reader

TAR: Final = 0  # the devices of one layer: its tar, and the file that holds its sparse files
SPARSE: Final = 1
_METADATA: Final = ".wh..wh."
_MAX_NAME: Final = 255
_COPY: Final = 1 << 20
_MODES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


class Tree:
    """Takes the entries of one layer in order.

    ``sparse_fd``: an empty file that takes the sparse files of the archive.
    """

    def __init__(self, builder: Builder, *, sparse_fd: int) -> None:
        self._builder = builder
        self._sparse_fd = sparse_fd
        self._sparse = SparseFiles(sparse_fd)
        self._known: dict[bytes, int] = {}  # by parent and name: a directory's number, or of a symlink's target -1 less its place
        self._targets: list[str] = []
        self._directories = Directories[int](ROOT, self._look, self._imply, self._fault)
        self._has_whiteouts = False
        self._last: tuple[int, Entry, int] | None = None  # the last file with bytes, its record and place

    def add(self, entry: Entry, reader: Reader) -> None:
        """Raises InvalidArchive, OSError."""
        path = clean(entry.name)
        if not path:
            if entry.kind is Kind.DIRECTORY:
                self._describe(ROOT, entry)
            return
        parent, _, name = path.rpartition("/")
        if name.startswith(WHITEOUT):
            self._whiteout(path, parent, name, entry.mtime_ns)
            return
        raw = os.fsencode(name)
        if len(raw) > _MAX_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        directory = self._directories.known.get(parent, -1)
        if directory < 0:
            directory = self._directories.find(parent, entry.mtime_ns)
        kind = entry.kind
        if kind is Kind.DIRECTORY:
            self._add_directory(entry, path, directory, raw)
        elif kind is Kind.HARDLINK:
            self._add_link(entry, path, directory, raw)
        else:
            self._replace(directory, raw)
            if kind is Kind.FILE:
                self._add_file(entry, directory, raw, reader)
            elif kind is Kind.SYMLINK:
                self._add_symlink(entry, directory, raw)
            else:
                device = os.makedev(*entry.device)
                self._has_whiteouts = self._has_whiteouts or (kind is Kind.CHARACTER and not device)
                mode = _MODES[kind] | entry.mode
                self._builder.put(directory, raw, pack_inode(mode, entry.uid, entry.gid, entry.mtime_ns, where=device))

    def finish(self, tar_fd: int, tar_bytes: int) -> None:
        """The tar is whole.  If it ends in the middle of a block, which can't be read as one, the file that ends there is copied out."""
        rest = tar_bytes % BLOCK
        if self._last is None or not rest:
            return
        number, entry, offset = self._last
        if offset + entry.size <= tar_bytes - rest:
            return
        place = self._sparse.room(entry.size)
        for start in range(0, entry.size, _COPY):
            write_at(self._sparse_fd, os.pread(tar_fd, min(_COPY, entry.size - start), offset + start), place + start)
        os.ftruncate(self._sparse_fd, place + entry.size + -entry.size % BLOCK)
        self._builder.amend(number, self._file(entry, SPARSE, place))

    def _add_file(self, entry: Entry, directory: int, name: bytes, reader: Reader) -> None:
        if entry.segments is not None:
            self._builder.put(directory, name, self._file(entry, SPARSE, self._sparse.copy(entry, reader)))
            return
        offset = reader.offset
        number = self._builder.put(directory, name, self._file(entry, TAR, offset))
        if entry.size:
            self._last = number, entry, offset

    def _file(self, entry: Entry, device: int, offset: int) -> bytes:
        where = self._builder.starts[device] + offset // BLOCK if entry.size else 0
        attributes = encode_attributes(attributes_of(entry, {})) if entry.xattrs else b""
        return pack_inode(stat.S_IFREG | entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, where, attributes)

    def _add_symlink(self, entry: Entry, directory: int, name: bytes) -> None:
        check_symlink(entry)
        target = os.fsencode(entry.link)
        inode = pack_inode(stat.S_IFLNK | 0o777, entry.uid, entry.gid, entry.mtime_ns, len(target))
        self._builder.put(directory, name, inode + target)
        self._known[NUMBER.pack(directory) + name] = -1 - len(self._targets)
        self._targets.append(entry.link)

    def _add_link(self, entry: Entry, path: str, directory: int, name: bytes) -> None:
        target = clean(entry.link)
        if target == path:
            return
        parent, _, last = target.rpartition("/")
        wanted = os.fsencode(last)
        self._replace(directory, name)  # before the target is looked for, as it may be below
        try:
            found = self._directories.find(parent)
        except OSError:
            raise bad_link(entry) from None
        symlink = self._known.get(NUMBER.pack(found) + wanted)
        if not wanted or (symlink is not None and symlink >= 0) or (found, wanted) == (directory, name):
            raise bad_link(entry)
        self._builder.link(directory, name, (found, wanted), str(bad_link(entry)))
        if symlink is not None:
            self._known[NUMBER.pack(directory) + name] = symlink

    def _add_directory(self, entry: Entry, path: str, parent: int, name: bytes) -> None:
        key = NUMBER.pack(parent) + name
        directory = self._known.get(key, -1)
        if directory < 0:
            if self._known.pop(key, None) is not None:
                self._directories.known.clear()
            self._builder.unsettled = self._builder.unsettled or self._has_whiteouts  # it may hide what one of them hides
            directory = self._known[key] = self._builder.make_directory(parent, name)
        self._describe(directory, entry)
        self._directories.remember(path, directory)

    def _describe(self, directory: int, entry: Entry) -> None:
        self._builder.describe(directory, stat.S_IFDIR | entry.mode, entry.uid, entry.gid, entry.mtime_ns)
        if entry.xattrs:
            self._builder.attributes[directory] = attributes_of(entry, self._builder.attributes.get(directory, {}))

    def _replace(self, directory: int, name: bytes) -> None:
        """Something else than a directory or symlink is about to have the name."""
        if self._known.pop(NUMBER.pack(directory) + name, None) is not None:
            self._directories.known.clear()  # names may lead elsewhere from now on

    def _whiteout(self, path: str, parent: str, name: str, mtime_ns: int) -> None:
        if name == OPAQUE:
            directory = self._directories.find(parent, mtime_ns)
            if not self._builder.lowest and directory != ROOT:  # see `apply`
                self._builder.set_attributes(directory, {OVERLAY_OPAQUE: b"y"})
            return
        if name.startswith(_METADATA):
            return
        hidden = os.fsencode(name[len(WHITEOUT) :])
        if hidden in (b"", b".", b".."):
            raise InvalidArchive(f"invalid whiteout {path!r}")
        directory = self._directories.find(parent, mtime_ns)
        self._replace(directory, hidden)
        self._builder.put(directory, hidden, pack_inode(stat.S_IFCHR, 0, 0, mtime_ns))
        self._has_whiteouts = True

    def _look(self, directory: int, name: str) -> int | str | None:
        raw = os.fsencode(name)
        found = self._known.get(NUMBER.pack(directory) + raw)
        if found is None:
            return None
        return found if found >= 0 else self._targets[-1 - found]

    def _fault(self, directory: int, name: str) -> int:
        return errno.ENOTDIR if self._builder.is_file(directory, os.fsencode(name)) else errno.ENOENT

    def _imply(self, parent: int, text: str, path: str, mtime_ns: int) -> int:
        name = os.fsencode(text)
        if len(name) > _MAX_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        directory = self._known[NUMBER.pack(parent) + name] = self._builder.imply_directory(parent, name, path)
        self._builder.describe(directory, stat.S_IFDIR | 0o755, 0, 0, mtime_ns)
        return directory


def read_tree(reader: Reader, tree: Tree) -> None:
    """All entries of an archive.  Raises InvalidArchive, OSError."""
    for entry in reader:
        tree.add(entry, reader)


def attributes_of(entry: Entry, known: Mapping[str, bytes]) -> dict[str, bytes]:
    """``known`` and those of the entry that are taken.  Raises InvalidArchive for more than an inode can have."""
    kept = {name: value for name, value in entry.xattrs.items() if is_portable_attribute(name)}
    if any(len(os.fsencode(name)) > _MAX_NAME or len(value) > 0xFFFF for name, value in kept.items()):
        raise InvalidArchive(f"tar entry {entry.name!r} with an extended attribute that is too long")
    attributes = {**known, **kept}
    if sum(len(name) + len(value) + 8 for name, value in attributes.items()) > 0xFFFF:
        raise InvalidArchive(f"tar entry {entry.name!r} with too many extended attributes")
    return attributes
