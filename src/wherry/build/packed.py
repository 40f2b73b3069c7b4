"""A build context as it came: one tar in a file without a name, and the tree of its names in memory.

Nothing is unpacked: files are hashed in the tar and copied out of it, so that a context costs one write however many files it has. The
few steps that need a directory (a bind mount of the context) get one then.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from wherry.build.context import Chosen, Source, content_hash, tell, tell_attributes
from wherry.spec.patterns import Patterns
from wherry.store.layer import write_all
from wherry.store.parsing import Base, Indexing, Start, inline
from wherry.tree.apply import Whiteouts
from wherry.tree.erofs_format import Damaged
from wherry.tree.erofs_image import decode
from wherry.tree.erofs_node import Node, walk
from wherry.tree.plan import Item, Packed
from wherry.tree.tar import InvalidArchive, Limits
from wherry.tree.tar import Source as Stream

_BLOCK = 1 << 20
_MAX_LINKS = 40


class PackedContext(Source):
    """Files of a tar, by the names they would have unpacked.  ``directory``: where the tar, and what is unpacked after all, may lie.

    ``left``: the directory that `unpacked` made, for whoever closes the context to remove; empty when it did not.
    """

    def __init__(self, source: Stream, directory: str, start: Start = inline) -> None:
        """Takes ``source``, a plain tar, to its end.  Raises InvalidArchive, OSError."""
        self._staging = directory
        self._start = start
        self._unpacking = threading.Lock()
        self._unpacked = False
        self.left = ""
        self._hashed: dict[int, bytes] = {}
        with contextlib.ExitStack() as undo:
            with tempfile.TemporaryDirectory(prefix="context-", dir=directory) as folder:
                names = [f"{folder}/{name}" for name in ("tar", "sparse", "index")]
                self._files = [undo.enter_context(open(names[0], "x+b", buffering=0))]
                with Indexing(start, *names, base=Base(), limits=Limits(), growing=True, literal=True) as indexing:
                    _keep(source, self._files[0], indexing)
                    has_sparse = indexing.finish().sparse_bytes > 0
                if has_sparse:
                    self._files.append(undo.enter_context(open(names[1], "rb", buffering=0)))
                with open(names[2], "rb") as index:
                    self._root = _tree(index.read())
            self._bytes = [memoryview(undo.enter_context(_mapped(file))) for file in self._files]
            self._identities = _several_names(self._root, [len(view) for view in self._bytes])
            self._undo = undo.pop_all()
        super().__init__(self._files[0].fileno())

    def close(self) -> None:
        for view in self._bytes:
            view.release()
        self._bytes = []
        self._undo.close()
        self.fd = -1

    def read(self, path: str, limit_bytes: int) -> bytes:
        node = self._node(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not stat.S_ISREG(node.mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if node.size > limit_bytes:
            raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
        return bytes(self._content_of(node))

    def resolved(self, path: str) -> str | None:
        found = self._find(path)
        return None if found is None else found[0]

    def open_file(self, path: str, directory: str) -> int:
        node = self._existing(path)
        with tempfile.TemporaryFile(dir=directory) as copy:
            copy.write(self._content_of(node))
            copy.flush()
            copy.seek(0)
            return os.dup(copy.fileno())

    def descriptors(self) -> tuple[int, ...]:
        return tuple(file.fileno() for file in self._files)

    def item(self, chosen: Chosen, descriptor: int, name: str) -> Item:
        top = self._existing(chosen.path)
        if not chosen.is_directory:
            return Item(kind="file", descriptor=descriptor, path=chosen.path, name=name, packed=(self._packed(top),))
        packed: list[Packed] = []
        folders = {"": top}
        for entry in chosen.entries:
            parent, _, last = entry.rpartition("/")
            node = (folders[parent].children or {})[last]
            if node.children is not None:
                folders[entry] = node
            packed.append(self._packed(node))
        return Item(kind="tree", descriptor=descriptor, path=chosen.path, name=name, entries=chosen.entries, packed=tuple(packed))

    def unpacked(self) -> str:
        """A directory with all of it, made when it is first asked for.  It is left when the context is closed: see ``left``."""
        with self._unpacking:
            if not self._unpacked:
                self.left = tempfile.mkdtemp(prefix="context-", dir=self._staging)
                root_fd = os.open(self.left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._files[0].seek(0)
                    arguments = {"whiteouts": Whiteouts.LITERAL.value}
                    job = self._start("unpack", arguments, [self._files[0].fileno(), root_fd])
                    try:
                        job.result()
                    finally:
                        job.end()
                finally:
                    os.close(root_fd)
                self._unpacked = True
        return self.left

    # -- what choosing asks for

    def _is_directory(self, path: str) -> bool:
        return self._existing(path).children is not None

    def _file(self, path: str) -> tuple[bytes, int]:
        node = self._existing(path)
        return self._told(node), node.size

    def _head(self, path: str) -> bytes:
        node = self._existing(path)
        return bytes(self._content_of(node)[:512]) if stat.S_ISREG(node.mode) else b""

    def _names(self, path: str) -> list[str]:
        node = self._node(path)
        return list(node.children or ()) if node is not None else []

    def _content(self, path: str, excluded: Patterns) -> Iterator[tuple[str, bytes, int]]:
        """As a directory's, for any depth.  A directory that is left out comes all the same when something in it does not."""
        filtered = bool(self.ignored) or bool(excluded)
        open_folders = [_Open(self._existing(path), "", None)]
        while open_folders:
            folder = open_folders[-1]
            name = next(folder.names, None)
            if name is None:
                open_folders.pop()
                continue
            node, below = folder.children[name], folder.prefix + name
            inside = f"{path}/{below}" if path else below
            dropped = filtered and self._dropped(inside, below, excluded)
            if dropped and (node.children is None or not self._may_hold_kept(inside, below, excluded)):
                continue
            entry = (below, self._told(node), node.size)
            if not dropped:
                for one in open_folders:
                    if one.owed is not None:
                        yield one.owed
                        one.owed = None
                yield entry
            if node.children is not None:
                open_folders.append(_Open(node, below + "/", entry if dropped else None))

    def _told(self, node: Node) -> bytes:
        """What the digest says of an inode: hashed once, however many instructions and names choose it."""
        if not stat.S_ISREG(node.mode):
            return tell(node.mode, "", os.fsencode(node.link))
        content = self._hashed.get(id(node))
        if content is None:
            hashed = content_hash()
            hashed.update(self._content_of(node))
            content = self._hashed[id(node)] = hashed.digest() + tell_attributes(node.xattrs or {})
        return tell(node.mode, "", content)

    # -- names and bytes

    def _content_of(self, node: Node) -> memoryview:
        return self._bytes[node.device][node.offset : node.offset + node.size]

    def _packed(self, node: Node) -> Packed:
        return Packed(
            mode=node.mode,
            size=node.size,
            mtime_ns=node.mtime_ns,
            descriptor=node.device,
            offset=node.offset,
            identity=self._identities.get(id(node), -1),
            link=node.link,
            attributes=[(name, value.hex()) for name, value in (node.xattrs or {}).items()],
        )

    def _existing(self, path: str) -> Node:
        """Raises FileNotFoundError; what was resolved before is there."""
        node = self._node(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    def _node(self, path: str) -> Node | None:
        found = self._find(path)
        return None if found is None else found[1]

    def _find(self, path: str) -> tuple[str, Node] | None:
        """Where ``path`` leads, through symlinks but never above the root, and what is there.  Raises OSError for links in a circle."""
        stack: list[tuple[str, Node]] = [("", self._root)]
        pending = path.split("/")[::-1]
        hops = 0
        while pending:
            name = pending.pop()
            children = stack[-1][1].children
            if children is None:
                return None
            if name == "..":
                del stack[max(1, len(stack) - 1) :]
            elif name not in ("", "."):
                node = children.get(name)
                if node is None:
                    return None
                if not node.link:
                    stack.append((name, node))
                    continue
                hops += 1
                if hops > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if node.link.startswith("/"):
                    del stack[1:]
                pending += node.link.split("/")[::-1]
        return "/".join(name for name, _ in stack[1:]), stack[-1][1]


class _Open:
    """A directory on the way.  ``owed``: its own entry, to come before the first in it."""

    __slots__ = ("children", "names", "owed", "prefix")

    def __init__(self, node: Node, prefix: str, owed: tuple[str, bytes, int] | None) -> None:
        self.children = node.children or {}
        self.names = iter(sorted(self.children))
        self.prefix = prefix
        self.owed = owed


def _keep(source: Stream, file: BinaryIO, indexing: Indexing) -> None:
    """The stream into the file, as far as its index is on its way."""
    size_bytes = 0
    while data := source.read(_BLOCK):
        write_all(file, data)
        size_bytes += len(data)
        indexing.mark(size_bytes)
        indexing.check()


def _tree(index: bytes) -> Node:
    try:
        return decode(index)
    except Damaged as error:
        raise InvalidArchive(str(error)) from error


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[mmap.mmap | bytes]:
    """A file's bytes without a copy of them; nobody else has it, so that it can't become shorter."""
    if not os.fstat(file.fileno()).st_size:
        yield b""
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def _several_names(root: Node, sizes: Sequence[int]) -> dict[int, int]:
    """A number for each inode that has more than one name; what lies outside of the files of these sizes is no context."""
    seen: set[int] = set()
    shared: dict[int, int] = {}
    for node in walk(root):
        if id(node) in seen:
            shared.setdefault(id(node), len(shared))
        seen.add(id(node))
        if stat.S_ISREG(node.mode) and node.size and not (node.device < len(sizes) and node.offset + node.size <= sizes[node.device]):
            raise InvalidArchive("a file that lies outside of the archive")
    return shared
