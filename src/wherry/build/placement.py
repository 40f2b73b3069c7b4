"""COPY of many files as a tar at once: what it adds to the tree below is computed, not carried out.

`tree.place` makes each file in an overlay, to be packed again; here the layer is written as the tar that packing would give. Only the
plain cases are decided here (new files, files in place of files, directories in place of directories): for the rest, errors among them,
`Unfit` is raised, and who asked has it carried out by `tree.place`, whose result this must equal.
"""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Iterator, Sequence

from wherry.kernel import files
from wherry.tree.apply import WHITEOUT, is_portable_attribute
from wherry.tree.erofs_node import Node, new_directory
from wherry.tree.ownership import apply_mode, resolve_owner
from wherry.tree.plan import Item, Packed, Plan
from wherry.tree.tar import Entry, Kind
from wherry.tree.tar_writer import Writer

_PIECE = 1 << 20
_SECOND = 1_000_000_000
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFIFO: Kind.FIFO, stat.S_IFDIR: Kind.DIRECTORY}


class Unfit(Exception):
    """Not a case for this module."""


class Placement:
    """The layer that ``plan`` adds to the tree at ``root_fd``, which is only read.  ``fds``: the plan's archives, borrowed."""

    def __init__(self, root_fd: int, plan: Plan, fds: Sequence[int]) -> None:
        """Raises Unfit; LookupError for an owner that the image does not know."""
        if plan.replace_links or plan.keep_owner or not all(item.packed and item.kind in ("tree", "file") for item in plan.items):
            raise Unfit
        self._root_fd = root_fd
        self._plan = plan
        self._archives = [_mapped(fd) for fd in fds]
        self._owner = resolve_owner(root_fd, plan.owner) if plan.owner else (0, 0)
        self._content: dict[int, memoryview] = {}  # of a file's node
        self._now = _cut(time.time_ns())
        self._below: dict[int, frozenset[str]] = {}  # of a directory that is below too: what is in it
        self.root = self._existing(".")
        for item in plan.items:
            if item.kind == "tree":
                self._tree(item, self._directory(plan.destination))
            else:
                self._file(item)

    def pieces(self) -> Iterator[bytes]:
        """The layer as a tar, in the order of `tree.pack`; then `root` tells where everything is in it."""
        made: list[bytes] = []
        out = Writer(_Collected(made))
        for _ in self._write(out):
            yield from made
            made.clear()
        out.finish()
        yield from made

    def _write(self, out: Writer) -> Iterator[None]:
        """Stops where something may have been written."""
        first: dict[int, str] = {}
        pending: list[tuple[str, Node]] = [("", self.root)]
        while pending:
            path, folder = pending.pop()
            if path:
                out.add(_entry(path, folder))
            prefix = path + "/" if path else ""
            below: list[tuple[str, Node]] = []
            for name, node in sorted((folder.children or {}).items()):
                if node.children is not None:
                    below.append((prefix + name, node))
                    continue
                known = first.setdefault(id(node), prefix + name)
                entry = _entry(prefix + name, node)
                if known != entry.name:
                    entry.kind, entry.link, entry.size, entry.xattrs = Kind.HARDLINK, known, 0, {}
                out.add(entry)
                if entry.kind is Kind.FILE:
                    node.offset = out.offset
                    for piece in _pieces(self._content[id(node)]):
                        out.write(piece)
                        yield
            pending += reversed(below)

    # -- what is added

    def _tree(self, item: Item, top: Node) -> None:
        folders = {"": top}
        made: dict[int, Node] = {}
        for path, packed in zip(item.entries, item.packed, strict=True):
            parent, _, name = path.rpartition("/")
            folder = folders[parent]
            if stat.S_ISDIR(packed.mode):
                folders[path] = self._add_directory(folder, f"{self._plan.destination}/{path}", name, packed)
            elif packed.identity >= 0 and packed.identity in made:
                self._add(folder, f"{self._plan.destination}/{path}", name, made[packed.identity])
            else:
                node = self._made(packed, item.descriptor)
                self._add(folder, f"{self._plan.destination}/{path}", name, node)
                if packed.identity >= 0:
                    made[packed.identity] = node

    def _file(self, item: Item) -> None:
        destination = self._plan.destination
        inner, _, name = item.name.rpartition("/")
        if not (self._plan.directory or self._is_directory(destination)):
            raise Unfit  # one file under a name of its own: nothing is gained
        path = f"{destination}/{inner}" if inner else destination
        self._add(self._directory(path), f"{path}/{name}", name, self._made(item.packed[0], item.descriptor))

    def _made(self, packed: Packed, descriptor: int) -> Node:
        if stat.S_IFMT(packed.mode) not in _KINDS:
            raise Unfit
        bits = 0o777 if packed.link else self._mode(packed)
        node = Node(stat.S_IFMT(packed.mode) | bits, *self._owner, _cut(packed.mtime_ns))
        if stat.S_ISFIFO(packed.mode):
            node.mtime_ns = self._now
        node.size, node.link = packed.size, packed.link
        node.xattrs = {name: bytes.fromhex(value) for name, value in packed.attributes} or None
        self._content[id(node)] = self._archives[descriptor + packed.descriptor][packed.offset : packed.offset + packed.size]
        return node

    def _mode(self, packed: Packed) -> int:
        bits = stat.S_IMODE(packed.mode)
        return apply_mode(self._plan.mode, bits, directory=stat.S_ISDIR(packed.mode)) if self._plan.mode else bits

    def _add(self, folder: Node, path: str, name: str, node: Node) -> None:
        """Put what is no directory into ``folder``, in place of a file at most."""
        children = self._open(folder, name)
        if name in children:
            raise Unfit  # this COPY had another: names of one inode may be among them
        if name in self._below.get(id(folder), ()) and stat.S_ISDIR(self._status(path).st_mode):
            raise Unfit
        children[name] = node

    def _add_directory(self, folder: Node, path: str, name: str, packed: Packed) -> Node:
        children = self._open(folder, name)
        node = children.get(name)
        if node is None and name in self._below.get(id(folder), ()):
            node = children[name] = self._existing(path)
        elif node is None:
            node = children[name] = new_directory()
        if node.children is None:
            raise Unfit
        node.mode, node.uid, node.gid, node.mtime_ns = stat.S_IFDIR | self._mode(packed), *self._owner, _cut(packed.mtime_ns)
        return node

    def _open(self, folder: Node, name: str) -> dict[str, Node]:
        if name.startswith(WHITEOUT):  # means something else in a layer
            raise Unfit
        assert folder.children is not None
        return folder.children

    # -- what is below

    def _directory(self, path: str) -> Node:
        """The destination, changed now: made with its parents where it is missing."""
        node, done = self.root, ""
        for name in filter(None, path.split("/")):
            children = self._open(node, name)
            done = f"{done}/{name}"
            child = children.get(name)
            if child is None:
                if name in self._below.get(id(node), ()):
                    child = self._existing(done)
                else:
                    child = new_directory(self._plan.directory_mode, *self._owner, self._now)
                    self._touch(node)
                children[name] = child
            if child.children is None:
                raise Unfit
            node = child
        self._touch(node)
        return node

    def _touch(self, node: Node) -> None:
        if node is not self.root:  # which has no entry in a layer
            node.mtime_ns = self._now

    def _existing(self, path: str) -> Node:
        """A directory that is below, as it is there; Unfit for anything else, a symlink too."""
        try:
            fd = files.open_beneath(self._root_fd, path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Unfit from error
        try:
            status = os.fstat(fd)
            if status.st_mode & stat.S_ISGID:
                raise Unfit  # its group goes to what is made in it
            node = new_directory(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, _cut(status.st_mtime_ns))
            node.xattrs = {name: os.getxattr(fd, name) for name in os.listxattr(fd) if is_portable_attribute(name)} or None
            self._below[id(node)] = frozenset(os.listdir(fd))
        finally:
            os.close(fd)
        return node

    def _status(self, path: str) -> os.stat_result:
        fd = files.open_beneath(self._root_fd, path.strip("/"), os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self._status(path).st_mode)
        except OSError:
            return False


class _Collected:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._pieces.append(bytes(data))


def _mapped(fd: int) -> memoryview:
    """A file's bytes: for many small pieces that is half the work of reading each."""
    if not os.fstat(fd).st_size:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


def _cut(time_ns: int) -> int:
    """Whole seconds, as `tree.pack` tells."""
    return time_ns - time_ns % _SECOND


def _entry(path: str, node: Node) -> Entry:
    return Entry(
        name=path,
        kind=_KINDS[stat.S_IFMT(node.mode)],
        mode=stat.S_IMODE(node.mode),
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        mtime_ns=node.mtime_ns,
        link=node.link,
        xattrs=node.xattrs or {},
    )
