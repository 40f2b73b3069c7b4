"""Snapshots as overlayfs stacks where a layer that came as a tar is never unpacked.

The tar is kept, with an EROFS index over it; the mounted index is the lower directory. Layers written by containers are plain directories,
as with `overlay`. A long row of tar layers is shown by one merged index.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO

from wherry.kernel import writeback
from wherry.spec.digest import Digest
from wherry.store import erofs_image as image
from wherry.store.erofs_mounts import Mounts, attach
from wherry.store.erofs_tree import BLOCK, SPARSE, TAR, Node, lay_over, new_directory, read_tree, sizes, walk
from wherry.store.layer import Background, HashingSource, check_digest, hash_only, write_all
from wherry.store.overlay import Overlay
from wherry.store.records import Records
from wherry.store.snapshot import LayerFacts, Row, stacked
from wherry.tree.tar import Limits, Reader, Sink, Source

_TAR = "tar"
_SPARSE = "sparse"
_INDEX = "index"
_MERGED = "merged"
_MERGE_FROM = 9  # layers in a row that are shown by one merged index, not each by its own
_CHUNK = 1 << 20
_AT_ONCE = 8 << 20
_HEAD = 1 << 16


class Erofs(Overlay):
    """The Snapshotter for kernels with EROFS and overlayfs.  ``mounts_dir``: where indexes are mounted."""

    name = "erofs"
    keeps_tars = True

    def __init__(self, data_root: str, records: Records, mounts_dir: str, limits: Limits | None = None) -> None:
        super().__init__(data_root, records, limits)
        self._mounts = Mounts(mounts_dir, self._needed)
        self._merging = threading.Lock()

    def apply(self, name: str | None, parent: str | None, stream: Source, *, expected: Digest | None = None) -> LayerFacts:
        below = self._below(parent)
        if name is not None and self.exists(name):
            return LayerFacts(diff_id=hash_only(stream, expected), size_bytes=self.usage(name))
        with self._shelf.making() as directory:
            with (
                open(self._shelf.path(directory, _TAR), "xb", buffering=0) as tar,
                Background(_Keeper(tar).take) as keeper,
                HashingSource(_Tee(stream, keeper)) as source,
            ):
                tree = self._read(directory, Reader(source, self._limits), below)
                diff_id = source.digest()
                keeper.finish()
            check_digest(diff_id, expected)
            return self._finish_tar(name, parent, directory, tree, diff_id)

    def adopt(self, name: str, parent: str | None, path: str, diff_id: Digest) -> LayerFacts:
        below = self._below(parent)
        if self.exists(name):
            return LayerFacts(diff_id=diff_id, size_bytes=self.usage(name))
        with self._shelf.making() as directory:
            os.link(path, self._shelf.path(directory, _TAR))
            with open(path, "rb") as tar:
                tree = self._read(directory, Reader(_Whole(tar), self._limits), below)
            return self._finish_tar(name, parent, directory, tree, diff_id)

    def capture(self, key: str) -> LayerFacts:
        """One tar is written, not a copy of every file."""
        row = self._shelf.active(key)
        with self._shelf.making() as directory:
            path = self._shelf.path(directory, _TAR)
            with open(path, "xb", buffering=0) as tar, Background(_Keeper(tar).take) as keeper:
                facts = self._pack(row.directory, _Handed(keeper))
                keeper.finish()
            with open(path, "rb") as packed:
                tree = self._read(directory, Reader(_Whole(packed), self._limits), row.below)
            return self._finish_tar(None, row.parent, directory, tree, facts.diff_id)

    def pack(self, key_or_name: str, out: Sink) -> LayerFacts:
        row = self._shelf.row(key_or_name)
        if not row.tar:
            return super().pack(key_or_name, out)
        with open(self._shelf.path(row.directory, _TAR), "rb", buffering=0) as tar:
            while block := tar.read(_CHUNK):
                write_all(out, block)
        return LayerFacts(diff_id=Digest(row.tar), size_bytes=row.size_bytes)

    def remove(self, key_or_name: str) -> None:
        row = self._shelf.get(key_or_name)
        super().remove(key_or_name)
        if row is not None and row.tar:
            for name in _mount_names(row.directory):
                self._mounts.release(name)

    def sweep(self) -> None:
        self._mounts.clear()
        super().sweep()

    def close(self) -> None:
        self._mounts.clear()

    def _lower(self, directories: Sequence[str]) -> tuple[str, ...]:
        paths: list[str] = []
        tars: list[str] = []
        for directory in directories:
            if os.path.exists(self._shelf.path(directory, _INDEX)):
                tars.append(directory)
                continue
            paths += self._shown(tars, lowest=False)
            tars = []
            paths.append(self._tree(directory))
        return (*paths, *self._shown(tars, lowest=True))

    def _shown(self, directories: list[str], *, lowest: bool) -> list[str]:
        """Where layers that follow each other, top first, are mounted."""
        if len(directories) >= _MERGE_FROM:
            with contextlib.suppress(image.TooLarge):
                merged = self._merge(directories, lowest=lowest)
                devices = [path for directory in reversed(directories) for path in self._devices(directory)]
                return [self._mounts.path(_mount_names(directories[0])[1], merged, devices)]
        return [self._mounts.path(one, self._shelf.path(one, _INDEX), self._devices(one)) for one in directories]

    def _merge(self, directories: list[str], *, lowest: bool) -> str:
        """One index over several layers, top first, kept beside the topmost's own.  Raises TooLarge."""
        path = self._shelf.path(directories[0], _MERGED)
        with self._merging:
            if os.path.exists(path):
                return path
            root: Node | None = None
            devices: list[image.Device] = []
            for directory in reversed(directories):
                with open(self._shelf.path(directory, _INDEX), "rb") as file:
                    layer = image.decode(file.read(), len(devices))
                devices += self._described(directory)
                if root is None:
                    root = layer
                else:
                    lay_over(root, layer, lowest=lowest)
            assert root is not None
            self._shelf.write(directories[0], _MERGED, image.encode(root, devices))
        return path

    def _read(self, directory: str, reader: Reader, below: tuple[str, ...]) -> Node:
        """The names in a tar, read to its end; its sparse files are unpacked, into one file."""
        sparse = self._shelf.path(directory, _SPARSE)
        fd = os.open(sparse, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            tree = read_tree(reader, self._root(below), lowest=not below, sparse_fd=fd)
            reader.drain()
        finally:
            os.close(fd)
        if not tree.sparse_bytes:
            os.unlink(sparse)
        return tree.root

    def _root(self, below: tuple[str, ...]) -> Node:
        """A root directory that looks like the parent's."""
        if not below:
            return new_directory()
        if os.path.exists(index := self._shelf.path(below[0], _INDEX)):
            with open(index, "rb") as file:
                root = image.decode_root(file.read(_HEAD))
            return new_directory(stat.S_IMODE(root.mode), root.uid, root.gid, root.mtime_ns)
        status = os.lstat(self._tree(below[0]))
        return new_directory(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)

    def _finish_tar(self, name: str | None, parent: str | None, directory: str, root: Node, diff_id: Digest) -> LayerFacts:
        facts = LayerFacts(diff_id=diff_id, size_bytes=sizes(root))
        self._share_tar(directory, str(diff_id))
        self._move_end(directory, root)
        with open(self._shelf.path(directory, _INDEX), "xb") as file:
            file.write(image.encode(root, self._described(directory)))
        row = Row(directory=directory, parent=parent, below=self._below(parent), tar=str(diff_id))
        self._finish(name or stacked(parent, diff_id), row, facts)
        return facts

    def _move_end(self, directory: str, root: Node) -> None:
        """A tar may end in the middle of a block, which can't be read as one: the file that ends there is copied out."""
        with open(self._shelf.path(directory, _TAR), "rb") as tar:
            size = os.fstat(tar.fileno()).st_size
            if size % BLOCK == 0:
                return
            for node in walk(root):
                if stat.S_ISREG(node.mode) and node.device == TAR and node.offset + node.size > size - size % BLOCK:
                    tar.seek(node.offset)
                    with open(self._shelf.path(directory, _SPARSE), "ab") as copy:
                        node.device, node.offset = SPARSE, copy.tell()
                        shutil.copyfileobj(tar, copy)
                        copy.truncate(node.offset + node.size + -node.size % BLOCK)

    def _share_tar(self, directory: str, diff_id: str) -> None:
        """The same layer on another parent is the same tar: keep one."""
        own = self._shelf.path(directory, _TAR)
        for row in self._shelf.rows():
            if row.tar == diff_id and os.stat(own).st_nlink == 1:
                with contextlib.suppress(FileNotFoundError):
                    os.link(self._shelf.path(row.directory, _TAR), f"{own}.new")
                    os.rename(f"{own}.new", own)
                    return

    def _devices(self, directory: str) -> list[str]:
        paths = [self._shelf.path(directory, part) for part in (_TAR, _SPARSE)]
        return paths if os.path.exists(paths[1]) else paths[:1]

    def _described(self, directory: str) -> list[image.Device]:
        return [image.Device(os.stat(path).st_size, f"{directory}/{os.path.basename(path)}") for path in self._devices(directory)]

    def _needed(self) -> set[str]:
        return {name for row in self._shelf.rows() if row.active for directory in row.below for name in _mount_names(directory)}


def _mount_names(directory: str) -> tuple[str, str]:
    """Of a layer's own index, and of one merged with those below it."""
    return directory, f"{directory}m"


class _Tee:
    """Reads from ``source`` and has the same bytes kept."""

    def __init__(self, source: Source, keeper: Background) -> None:
        self._source = source
        self._keeper = keeper

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._keeper.put(data)
        return data


class _Handed:
    """Takes what is written and has it kept."""

    def __init__(self, keeper: Background) -> None:
        self._keeper = keeper

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._keeper.put(bytes(data) if isinstance(data, bytearray) else data)
        return len(data)


class _Keeper:
    """Writes a tar, and lets it go to the disk while it comes."""

    def __init__(self, tar: io.FileIO) -> None:
        self._tar = tar
        self._size = 0
        self._begun = 0

    def take(self, data: bytes | memoryview) -> None:
        write_all(self._tar, data)
        self._size += len(data)
        if self._size - self._begun >= _AT_ONCE:
            writeback.start(self._tar.fileno(), self._begun, self._size - self._begun)
            self._begun = self._size


class _Whole:
    """A file as a single block of memory: what nobody looks at is not read."""

    def __init__(self, file: BinaryIO) -> None:
        self._rest: bytes | mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""

    def read(self, _size: int, /) -> Any:
        data, self._rest = self._rest, b""
        return data


def erofs_works(data_root: str) -> bool:
    """Whether an EROFS image in ``data_root`` can be mounted with a second file as its device; what is tried is attached nowhere."""
    os.makedirs(data_root, mode=0o700, exist_ok=True)
    directory = tempfile.mkdtemp(dir=data_root, prefix="erofs-probe-")
    try:
        tar, index = os.path.join(directory, _TAR), os.path.join(directory, _INDEX)
        with open(tar, "wb") as file:
            file.write(bytes(BLOCK))
        with open(index, "wb") as file:
            file.write(image.encode(new_directory(), [image.Device(BLOCK, "probe")]))
        os.close(attach(index, [tar]))
    except OSError:
        return False
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return True
