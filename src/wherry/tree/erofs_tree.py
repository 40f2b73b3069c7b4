"""A layer's tree in memory: names and inodes read from a tar, where file bodies are only places in it; and layers laid over each other.

What an archive's entry does to the tree is what `tree.apply` does to a directory, so that all snapshotters show the same.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from wherry.tree.apply import OPAQUE, OVERLAY_OPAQUE, WHITEOUT, bad_link, check_symlink, clean, is_portable_attribute
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_reader import Reader

TAR: Final = 0  # the devices of one layer: its tar, and the file that holds its sparse files
SPARSE: Final = 1
BLOCK: Final = 512
_METADATA: Final = ".wh..wh."
_MAX_LINKS: Final = 40
_MAX_NAME: Final = 255
_MAX_SPARSE: Final = 1 << 40
_PAGE: Final = 4096
_MODES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}


class Node:
    """An inode.  ``device`` and ``offset``: where a regular file's bytes lie; ``rdev``: of a device node, as makedev has it.

    A directory's ``children`` are by name. Two names of one node are a hard link.
    """

    __slots__ = ("children", "device", "gid", "link", "links", "mode", "mtime_ns", "offset", "place", "rdev", "size", "uid", "xattrs")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.size = 0
        self.device = TAR
        self.offset = 0
        self.rdev = 0
        self.link = ""
        self.xattrs: dict[str, bytes] | None = None
        self.children: dict[str, Node] | None = None
        self.links = 0  # the writer counts them
        self.place = 0  # where the writer puts it

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.mode) and self.rdev == 0

    @property
    def is_opaque(self) -> bool:
        return self.xattrs is not None and self.xattrs.get(OVERLAY_OPAQUE) == b"y"


def new_directory(mode: int = 0o755, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> Node:
    node = Node(stat.S_IFDIR | mode, uid, gid, mtime_ns)
    node.children = {}
    return node


class Tree:
    """Takes the entries of one layer in order.  ``lowest``: nothing lies below, so whiteouts only undo what this archive had before.

    ``sparse_fd``: an empty file that takes the sparse files of the archive. ``literal``: a name like a whiteout's is a name.
    """

    def __init__(self, root: Node, *, lowest: bool, sparse_fd: int, literal: bool = False) -> None:
        self.root = root
        self.sparse_bytes = 0
        self._lowest = lowest
        self._literal = literal
        self._sparse_fd = sparse_fd
        self._directories: dict[str, Node] = {}
        self._modes: dict[int, int] = {}  # equal numbers are one object: there are many nodes
        self._time_ns = 0

    def add(self, entry: Entry, reader: Reader) -> None:
        """Raises InvalidArchive, OSError."""
        path = clean(entry.name)
        if not path:
            if entry.kind is Kind.DIRECTORY:
                _describe(self.root, entry)
            return
        parent, _, name = path.rpartition("/")
        if name.startswith(WHITEOUT) and not self._literal:
            self._whiteout(path, parent, name, entry.mtime_ns)
            return
        if len(name) > _MAX_NAME // 4 and len(os.fsencode(name)) > _MAX_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        children = self._directory(parent, entry.mtime_ns)
        kind = entry.kind
        if kind is Kind.DIRECTORY:
            self._add_directory(entry, path, children, name)
            return
        node = self._linked(entry, path) if kind is Kind.HARDLINK else self._made(entry, reader)
        if node is not None:
            self._put(children, name, node)

    def _made(self, entry: Entry, reader: Reader) -> Node:
        kind = entry.kind
        if entry.mtime_ns != self._time_ns:
            self._time_ns = entry.mtime_ns
        mode = _MODES[kind] | entry.mode
        node = Node(self._modes.setdefault(mode, mode), entry.uid, entry.gid, self._time_ns)
        if kind is Kind.FILE:
            node.size = entry.size
            if entry.segments is not None:
                self._copy_sparse(node, entry, reader)
            else:
                node.offset = reader.offset
            if entry.xattrs:
                _set_attributes(node, entry)
        elif kind is Kind.SYMLINK:
            check_symlink(entry)
            node.link = entry.link
            node.mode = stat.S_IFLNK | 0o777
        elif kind is not Kind.FIFO:
            node.rdev = os.makedev(*entry.device)
        return node

    def _linked(self, entry: Entry, path: str) -> Node | None:
        """The node that a hard link names, None when it names itself."""
        target = clean(entry.link)
        if target == path:
            return None
        parent, _, name = target.rpartition("/")
        try:
            node = self._directory(parent).get(name)
        except OSError:
            node = None
        if node is None or node.is_whiteout or node.children is not None:
            raise bad_link(entry)
        return node

    def _add_directory(self, entry: Entry, path: str, children: dict[str, Node], name: str) -> None:
        node = children.get(name)
        if node is None or node.children is None:
            hides = node is not None and node.is_whiteout
            node = new_directory()
            if hides:
                _make_opaque(node)
            self._put(children, name, node)
        _describe(node, entry)
        self._directories[path] = node

    def _put(self, children: dict[str, Node], name: str, node: Node) -> None:
        former = children.get(name)
        if former is not None and not stat.S_ISREG(former.mode):
            self._directories.clear()  # names may lead elsewhere from now on
        children[name] = node

    def _whiteout(self, path: str, parent: str, name: str, mtime_ns: int) -> None:
        if name == OPAQUE:
            self._directory(parent, mtime_ns)
            if not self._lowest:
                _make_opaque(self._find(parent))
            return
        if name.startswith(_METADATA):
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in ("", ".", ".."):
            raise InvalidArchive(f"invalid whiteout {path!r}")
        if self._lowest:
            try:
                children = self._directory(parent)
            except FileNotFoundError:
                return
            self._directories.clear()
            children.pop(hidden, None)
        else:
            self._put(self._directory(parent, mtime_ns), hidden, Node(stat.S_IFCHR, mtime_ns=mtime_ns))

    def _directory(self, path: str, mtime_ns: int | None = None) -> dict[str, Node]:
        """What is in the directory ``path``; it is made where it is missing, unless ``mtime_ns`` is None."""
        children = self._find(path, mtime_ns).children
        assert children is not None
        return children

    def _find(self, path: str, mtime_ns: int | None = None) -> Node:
        """The directory ``path``, through symlinks but never above the root."""
        if not path:
            return self.root
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = self._walk(path, mtime_ns)
        return found

    def _walk(self, path: str, mtime_ns: int | None) -> Node:
        stack = [self.root]
        pending = path.split("/")[::-1]
        own = len(pending)  # so many of the pending names are not from a symlink
        hops = 0
        while pending:
            name = pending.pop()
            from_link = len(pending) >= own
            own = min(own, len(pending))
            if name in ("", "."):
                continue
            if name == "..":
                if len(stack) > 1:
                    stack.pop()
                continue
            children = stack[-1].children
            assert children is not None
            node = children.get(name)
            if node is None:
                if mtime_ns is None or from_link:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                if len(os.fsencode(name)) > _MAX_NAME:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
                node = children[name] = new_directory(mtime_ns=mtime_ns)
            elif node.link:
                hops += 1
                if hops > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if node.link.startswith("/"):
                    del stack[1:]
                pending += node.link.split("/")[::-1]
                continue
            elif node.children is None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            stack.append(node)
        return stack[-1]

    def _copy_sparse(self, node: Node, entry: Entry, reader: Reader) -> None:
        """A sparse file gets a place in a sparse file, where its holes are holes."""
        node.device, node.offset = SPARSE, self.sparse_bytes
        self.sparse_bytes += entry.size + -entry.size % _PAGE
        if self.sparse_bytes > _MAX_SPARSE:
            raise InvalidArchive(f"archive with sparse files of more than {_MAX_SPARSE} bytes")
        for offset, length in entry.segments or ():
            position, end = node.offset + offset, node.offset + offset + length
            while position < end:
                data = reader.read(end - position)
                position += os.pwrite(self._sparse_fd, data, position)
        os.ftruncate(self._sparse_fd, self.sparse_bytes)


def read_tree(reader: Reader, root: Node, *, lowest: bool, sparse_fd: int, literal: bool = False) -> Tree:
    """All entries of an archive.  Raises InvalidArchive, OSError."""
    tree = Tree(root, lowest=lowest, sparse_fd=sparse_fd, literal=literal)
    for entry in reader:
        tree.add(entry, reader)
    return tree


def lay_over(below: Node, above: Node, *, lowest: bool) -> None:
    """Change ``below`` into what a stack of both shows; with ``lowest`` no mark is kept, else marks for what lies further below."""
    pending = [(below, above)]
    while pending:
        low, high = pending.pop()
        if high.is_opaque and low.children:
            low.children.clear()
        low.mode, low.uid, low.gid, low.mtime_ns = high.mode, high.uid, high.gid, high.mtime_ns
        opaque = (low.is_opaque or high.is_opaque) and not lowest
        low.xattrs = dict(high.xattrs) if high.xattrs else None
        if low.xattrs is not None:
            low.xattrs.pop(OVERLAY_OPAQUE, None)
        if opaque:
            _make_opaque(low)
        assert low.children is not None
        for name, node in (high.children or {}).items():
            former = low.children.get(name)
            if node.children is not None and former is not None and former.children is not None:
                pending.append((former, node))
            elif node.is_whiteout and lowest:
                low.children.pop(name, None)
            else:
                if node.children is not None:
                    if lowest:
                        _drop_marks(node)
                    elif former is not None:
                        _make_opaque(node)  # what lies further below stays hidden, as by what this directory replaces
                low.children[name] = node


def sizes(root: Node) -> int:
    """Files once each and the text of symlinks, as Docker counts a layer."""
    seen: set[int] = set()
    total = 0
    for node in walk(root):
        if (stat.S_ISREG(node.mode) or node.link) and id(node) not in seen:
            seen.add(id(node))
            total += node.size or len(os.fsencode(node.link))
    return total


def walk(root: Node) -> Iterator[Node]:
    """Every name's node."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        if node.children:
            pending += node.children.values()


def _drop_marks(root: Node) -> None:
    """Nothing lies below: whiteouts and opaque directories hide nothing."""
    for node in walk(root):
        if node.xattrs is not None:
            node.xattrs.pop(OVERLAY_OPAQUE, None)
        if node.children:
            for name in [name for name, child in node.children.items() if child.is_whiteout]:
                del node.children[name]


def _describe(node: Node, entry: Entry) -> None:
    node.mode = stat.S_IFDIR | entry.mode
    node.uid, node.gid, node.mtime_ns = entry.uid, entry.gid, entry.mtime_ns
    if entry.xattrs:
        _set_attributes(node, entry)


def _set_attributes(node: Node, entry: Entry) -> None:
    kept = {name: value for name, value in entry.xattrs.items() if is_portable_attribute(name)}
    if any(len(os.fsencode(name)) > _MAX_NAME or len(value) > 0xFFFF for name, value in kept.items()):
        raise InvalidArchive(f"tar entry {entry.name!r} with an extended attribute that is too long")
    node.xattrs = {**(node.xattrs or {}), **kept}
    if sum(len(name) + len(value) + 8 for name, value in node.xattrs.items()) > 0xFFFF:
        raise InvalidArchive(f"tar entry {entry.name!r} with too many extended attributes")


def _make_opaque(node: Node) -> None:
    node.xattrs = {**(node.xattrs or {}), OVERLAY_OPAQUE: b"y"}
