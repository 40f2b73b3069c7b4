"""COPY of many files as a tar at once: what it adds to the tree below is computed, not carried out.

`tree.place` makes each file in an overlay, to be packed again; here the layer is written as the tar that packing would give. Only the
plain cases are decided here (new files, files in place of files, directories in place of directories): for the rest, errors among them,
`Unfit` is raised, and who asked has it carried out by `tree.place`, whose result this must equal.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import time
from collections.abc import Sequence
from typing import Any, Self

from wherry.kernel import files, writeback
from wherry.spec.digest import Digest
from wherry.store.layer import Background
from wherry.tree.apply import WHITEOUT, is_portable_attribute
from wherry.tree.erofs_builder import ROOT, Builder
from wherry.tree.erofs_format import BLOCK, encode_attributes, pack_inode
from wherry.tree.erofs_log import write_at
from wherry.tree.ownership import apply_mode, resolve_owner
from wherry.tree.plan import Item, Packed, Plan
from wherry.tree.tar import Entry, Kind
from wherry.tree.tar_writer import file_header, header

_PIECE = 1 << 20
_PARTS = 1000  # at once, of which Linux takes 1024
_SECOND = 1_000_000_000
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFIFO: Kind.FIFO, stat.S_IFDIR: Kind.DIRECTORY}
_PADDING = [bytes(size) for size in range(BLOCK)]


class Unfit(Exception):
    """Not a case for this module."""


class _Folder:
    """A directory of the layer.  ``children``: a directory, or what is told of another inode and the number of its item.

    ``below``: the names in it in the tree below, where it is there too.
    """

    __slots__ = ("attributes", "below", "children", "mode", "mtime_ns", "owner")

    def __init__(self, mode: int, owner: tuple[int, int], mtime_ns: int) -> None:
        self.mode, self.owner, self.mtime_ns = mode, owner, mtime_ns
        self.attributes: dict[str, bytes] = {}
        self.below: frozenset[str] = frozenset()
        self.children: dict[str, _Folder | tuple[Packed, int]] = {}

    def add(self, name: str, one: _Folder | tuple[Packed, int]) -> None:
        """Raises Unfit."""
        if name.startswith(WHITEOUT):  # means something else in a layer
            raise Unfit
        self.children[name] = one


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
        self._now = _cut(time.time_ns())
        self._root = self._existing(".")
        for number, item in enumerate(plan.items):
            if item.kind == "tree":
                top = self._directory(plan.destination)
                self._tree(number, item, top)
                if item.mtime_ns is not None:
                    self._touch(top, _cut(item.mtime_ns))
            else:
                self._file(number, item)

    def write(self, fd: int, builder: Builder) -> Digest:
        """The layer as a tar, in the order of `tree.pack`, into the empty file ``fd``; ``builder`` learns where everything is in it."""
        with _Out(fd) as out:
            self._write(out, builder)
            return out.finish()

    def _write(self, out: _Out, builder: Builder) -> None:
        first: dict[tuple[int, int], tuple[str, int, bytes]] = {}  # by item and inode: its first name, as a path and in its directory
        pending: list[tuple[str, int, _Folder]] = [("", ROOT, self._root)]
        while pending:
            path, number, folder = pending.pop()
            if path:
                out.add(header(_entry(path, Kind.DIRECTORY, folder.mode, folder.owner, folder.mtime_ns, xattrs=folder.attributes)))
            builder.describe(number, stat.S_IFDIR | folder.mode, *folder.owner, folder.mtime_ns)
            if folder.attributes:
                builder.set_attributes(number, folder.attributes)
            inner: list[tuple[str, int, _Folder]] = []
            for name, one in sorted(folder.children.items()):
                inside = f"{path}/{name}" if path else name
                raw = name.encode("utf-8", "surrogateescape")
                if isinstance(one, _Folder):
                    inner.append((inside, builder.make_directory(number, raw), one))
                    continue
                packed, item = one
                known = (inside, number, raw)
                if packed.identity >= 0:
                    known = first.setdefault((item, packed.identity), known)
                if known[0] == inside:
                    self._write_inode(out, builder, known, packed, item)
                else:
                    mode, mtime_ns = self._facts(packed)
                    out.add(header(_entry(inside, Kind.HARDLINK, mode, self._owner, mtime_ns, link=known[0])))
                    builder.link(number, raw, known[1:], "")
            pending += reversed(inner)

    def _write_inode(self, out: _Out, builder: Builder, name: tuple[str, int, bytes], packed: Packed, item: int) -> None:
        path, number, raw = name
        mode, mtime_ns = self._facts(packed)
        uid, gid = self._owner
        if not stat.S_ISREG(packed.mode) or packed.attributes:
            self._write_rare(out, builder, name, packed)
        else:
            out.add(file_header(path, mode, uid, gid, packed.size, mtime_ns))
            where = builder.starts[0] + out.offset // BLOCK if packed.size else 0
            builder.put(number, raw, pack_inode(stat.S_IFREG | mode, uid, gid, mtime_ns, packed.size, where))
        if packed.size:
            archive = self._archives[self._plan.items[item].descriptor + packed.descriptor]
            out.add_content(archive[packed.offset : packed.offset + packed.size])

    def _write_rare(self, out: _Out, builder: Builder, name: tuple[str, int, bytes], packed: Packed) -> None:
        """All but the content of what has attributes or is no file."""
        path, number, raw = name
        mode, mtime_ns = self._facts(packed)
        kind, attributes = stat.S_IFMT(packed.mode), {key: bytes.fromhex(value) for key, value in packed.attributes}
        entry = _entry(path, _KINDS[kind], mode, self._owner, mtime_ns, size=packed.size, link=packed.link, xattrs=attributes)
        out.add(header(entry))
        target = os.fsencode(packed.link)
        where = builder.starts[0] + out.offset // BLOCK if packed.size else 0
        inode = pack_inode(kind | mode, *self._owner, mtime_ns, len(target) or packed.size, where, encode_attributes(attributes))
        builder.put(number, raw, inode + target)

    def _facts(self, packed: Packed) -> tuple[int, int]:
        """The mode without the type, and the time, that an inode has in the layer."""
        if packed.link:
            return 0o777, _cut(packed.mtime_ns)
        if stat.S_ISFIFO(packed.mode):
            return self._mode(packed), self._now
        return self._mode(packed), _cut(packed.mtime_ns)

    def _mode(self, packed: Packed) -> int:
        bits = stat.S_IMODE(packed.mode)
        return apply_mode(self._plan.mode, bits, directory=stat.S_ISDIR(packed.mode)) if self._plan.mode else bits

    # -- what is added

    def _tree(self, number: int, item: Item, top: _Folder) -> None:
        folders = {"": top}
        for path, packed in zip(item.entries, item.packed, strict=True):
            parent, _, name = path.rpartition("/")
            if stat.S_ISDIR(packed.mode):
                folders[path] = self._add_directory(folders[parent], f"{self._plan.destination}/{path}", name, packed)
            else:
                self._add(folders[parent], self._plan.destination, path, name, (packed, number))

    def _file(self, number: int, item: Item) -> None:
        destination = self._plan.destination
        inner, _, name = item.name.rpartition("/")
        if not (self._plan.directory or self._is_directory(destination)):
            raise Unfit  # one file under a name of its own: nothing is gained
        path = f"{destination}/{inner}" if inner else destination
        self._add(self._directory(path), path, name, name, (item.packed[0], number))

    def _add(self, folder: _Folder, top: str, path: str, name: str, one: tuple[Packed, int]) -> None:
        """Put what is no directory into ``folder``, in place of a file at most.  ``path``: the name's, from ``top`` on."""
        if stat.S_IFMT(one[0].mode) not in _KINDS:
            raise Unfit
        if name in folder.children:
            raise Unfit  # this COPY had another: names of one inode may be among them
        if name in folder.below and stat.S_ISDIR(self._status(f"{top}/{path}").st_mode):
            raise Unfit
        folder.add(name, one)

    def _add_directory(self, parent: _Folder, path: str, name: str, packed: Packed) -> _Folder:
        folder = parent.children.get(name)
        if folder is None:
            folder = self._existing(path) if name in parent.below else _Folder(0, (0, 0), 0)
            parent.add(name, folder)
        if not isinstance(folder, _Folder):
            raise Unfit
        folder.mode, folder.owner, folder.mtime_ns = self._mode(packed), self._owner, _cut(packed.mtime_ns)
        return folder

    # -- what is below

    def _directory(self, path: str) -> _Folder:
        """The destination, changed now: made with its parents where it is missing."""
        folder, done = self._root, ""
        for name in filter(None, path.split("/")):
            done = f"{done}/{name}"
            child = folder.children.get(name)
            if child is None:
                if name in folder.below:
                    child = self._existing(done)
                else:
                    child = _Folder(self._plan.directory_mode, self._owner, self._now)
                    self._touch(folder)
                folder.add(name, child)
            if not isinstance(child, _Folder):
                raise Unfit
            folder = child
        self._touch(folder)
        return folder

    def _touch(self, folder: _Folder, mtime_ns: int | None = None) -> None:
        if folder is not self._root:  # which has no entry in a layer
            folder.mtime_ns = self._now if mtime_ns is None else mtime_ns

    def _existing(self, path: str) -> _Folder:
        """A directory that is below, as it is there; Unfit for anything else, a symlink too."""
        try:
            fd = files.open_beneath(self._root_fd, path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Unfit from error
        try:
            status = os.fstat(fd)
            if status.st_mode & stat.S_ISGID:
                raise Unfit  # its group goes to what is made in it
            folder = _Folder(stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid), _cut(status.st_mtime_ns))
            folder.attributes = {name: os.getxattr(fd, name) for name in os.listxattr(fd) if is_portable_attribute(name)}
            folder.below = frozenset(os.listdir(fd))
        finally:
            os.close(fd)
        return folder

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


class _Out:
    """A tar on its way to the empty file ``fd``: gathered from where its parts lie; where it then lies it is hashed, a few pieces behind.

    ``offset``: its size so far.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = hashlib.sha256()
        self._behind = Background(self._settle)
        self._parts: list[bytes | memoryview] = []
        self._begun = 0  # where the parts go that are not written yet
        self._settled = 0
        self.offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._behind.__exit__()

    def add(self, data: bytes | memoryview) -> None:
        self._parts.append(data)
        self.offset += len(data)
        if self.offset - self._begun >= _PIECE or len(self._parts) >= _PARTS:
            self._flush()

    def add_content(self, data: memoryview) -> None:
        size = len(data)
        for start in range(0, size, _PIECE):
            self.add(data[start : start + _PIECE])
        self.add(_PADDING[-size % BLOCK])

    def finish(self) -> Digest:
        self.add(bytes(2 * BLOCK))
        self._flush()
        self._behind.finish()
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def _flush(self) -> None:
        if not self._parts:
            return
        size = self.offset - self._begun
        written = os.pwritev(self._fd, self._parts, self._begun)
        if written < size:  # a full disk, which now says so
            write_at(self._fd, b"".join(self._parts)[written:], self._begun + written)
        self._parts.clear()
        self._behind.put(_mapped(self._fd, self._begun, size))
        self._begun = self.offset

    def _settle(self, piece: bytes | memoryview) -> None:
        self._hash.update(piece)
        writeback.start(self._fd, self._settled, len(piece))
        self._settled += len(piece)


def _mapped(fd: int, start: int = 0, size: int | None = None) -> memoryview:
    """A file's bytes, or some of them, without a copy: for many small pieces that is half the work of reading each."""
    if size is None:
        size = os.fstat(fd).st_size - start
    if not size:
        return memoryview(b"")
    rest = start % mmap.ALLOCATIONGRANULARITY
    return memoryview(mmap.mmap(fd, rest + size, access=mmap.ACCESS_READ, offset=start - rest))[rest:]


def _entry(path: str, kind: Kind, mode: int, owner: tuple[int, int], mtime_ns: int, **rest: Any) -> Entry:
    uid, gid = owner
    return Entry(name=path, kind=kind, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, **rest)


def _cut(time_ns: int) -> int:
    """Whole seconds, as `tree.pack` tells."""
    return time_ns - time_ns % _SECOND
