"""Snapshots as overlayfs stacks where a layer that came as a tar is never unpacked.

The tar is kept, with an EROFS index over it; the mounted index is the lower directory. Layers written by containers are plain directories,
as with `overlay`. A long row of tar layers is shown by one merged index.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import stat
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from wherry.kernel import writeback
from wherry.spec.digest import Digest
from wherry.spec.mounts import Rootfs
from wherry.store.content import file_digest
from wherry.store.contents import Contents
from wherry.store.erofs_contents import IndexContents
from wherry.store.erofs_mounts import Mounts, attach
from wherry.store.layer import Background, HashingSink, HashingSource, check_digest, hash_only, write_all
from wherry.store.overlay import Overlay
from wherry.store.parsing import Base, Indexed, Indexing, Part, Start, compose, inline, merge
from wherry.store.records import Records
from wherry.store.shelf import damaged
from wherry.store.snapshot import Composed, LayerFacts, Row, stacked
from wherry.store.soundness import Finding, Tick
from wherry.tree.compare import same_bytes
from wherry.tree.erofs_format import BLOCK, Device, TooLarge
from wherry.tree.erofs_image import decode_root, encode
from wherry.tree.erofs_node import new_directory
from wherry.tree.tar import InvalidArchive, Limits, Sink, Source

log = logging.getLogger(__name__)
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

    def __init__(self, data_root: str, records: Records, mounts_dir: str, limits: Limits | None = None, start: Start = inline) -> None:
        super().__init__(data_root, records, limits, start)
        self._mounts = Mounts(mounts_dir, self._needed)
        self._merging = threading.Lock()
        self._stood_on: dict[str, int] = {}  # parents -> how much had been unmounted when one was prepared on them

    def apply(self, name: str | None, parent: str | None, stream: Source, *, expected: Digest | None = None) -> LayerFacts:
        below = self._below(parent)
        if name is not None and self.exists(name):
            return LayerFacts(diff_id=hash_only(stream, expected), size_bytes=self.usage(name))
        with self._shelf.making() as directory, ExitStack() as ends:
            tar = ends.enter_context(open(self._shelf.path(directory, _TAR), "xb", buffering=0))
            indexing = ends.enter_context(self._indexing(directory, below, growing=True))
            keeper = ends.enter_context(Background(_Keeper(tar, indexing).take))
            with HashingSource(stream) as source:
                while data := source.read(_CHUNK):
                    keeper.put(data)
                    indexing.check()
                keeper.finish()
                diff_id = source.digest()
            found = indexing.finish()
            check_digest(diff_id, expected)
            return self._finish_tar(name, parent, directory, found, diff_id)

    def compose(self, parent: str | None, layer: Composed) -> LayerFacts:
        self._below(parent)
        with self._shelf.making() as directory:
            paths = [self._shelf.path(directory, part) for part in (_TAR, _SPARSE, _INDEX)]
            diff_id, found = compose(layer, *paths)
            return self._finish_tar(None, parent, directory, found, diff_id)

    def adopt(self, name: str, parent: str | None, path: str, diff_id: Digest) -> LayerFacts:
        below = self._below(parent)
        if self.exists(name):
            return LayerFacts(diff_id=diff_id, size_bytes=self.usage(name))
        with self._shelf.making() as directory:
            os.link(path, self._shelf.path(directory, _TAR))
            with self._indexing(directory, below) as indexing:
                found = indexing.finish()
            return self._finish_tar(name, parent, directory, found, diff_id)

    def is_quick(self, parent: str | None) -> bool:
        """What it stands on is mounted: it was for an earlier one, and nothing has been unmounted since."""
        return parent is None or self._stood_on.get(parent) == self._mounts.unmounted

    def prepare(self, key: str, parent: str | None) -> Rootfs:
        unmounted = self._mounts.unmounted
        rootfs = super().prepare(key, parent)
        if parent is not None and self._stood_on.get(parent) != unmounted:
            self._stood_on = {name: count for name, count in self._stood_on.items() if count == unmounted} | {parent: unmounted}
        return rootfs

    def capture(self, key: str) -> LayerFacts:
        """One tar is written, not a copy of every file."""
        row = self._shelf.active(key)
        with self._shelf.making() as directory, ExitStack() as ends:
            tar = ends.enter_context(open(self._shelf.path(directory, _TAR), "xb", buffering=0))
            indexing = ends.enter_context(self._indexing(directory, row.below, growing=True))
            keeper = ends.enter_context(Background(_Keeper(tar, indexing).take))
            facts = self._pack(row.directory, _Handed(keeper), row.below, mend=False)
            keeper.finish()
            return self._finish_tar(None, row.parent, directory, indexing.finish(), facts.diff_id)

    def pack(self, key_or_name: str, out: Sink) -> LayerFacts:
        row = self._shelf.row(key_or_name)
        if not row.tar:
            return super().pack(key_or_name, out)
        with HashingSink(out) as sink:
            self._copy_tar(row, sink)
            return LayerFacts(diff_id=sink.digest(), size_bytes=row.size_bytes)

    def write(self, name: str, out: Sink) -> None:
        row = self._shelf.committed(name)
        if row.tar:
            self._copy_tar(row, out)
        else:
            super().write(name, out)

    def _copy_tar(self, row: Row, out: Sink) -> None:
        with open(self._shelf.path(row.directory, _TAR), "rb", buffering=0) as tar:
            while block := tar.read(_CHUNK):
                write_all(out, block)

    def packed_size(self, name: str) -> int:
        row = self._shelf.committed(name)
        return os.stat(self._shelf.path(row.directory, _TAR)).st_size if row.tar else super().packed_size(name)

    def contents(self, name: str) -> Contents:
        row = self._shelf.committed(name)
        if not row.tar:
            return super().contents(name)
        self._ensure(row.directory)  # nobody else would notice that the index is damaged
        return IndexContents(self._shelf.path(row.directory, _INDEX), self._devices(row.directory))

    def detach(self, key_or_name: str) -> Callable[[], None]:
        row = self._shelf.get(key_or_name)
        discard = super().detach(key_or_name)

        def end() -> None:
            discard()
            if row is not None and row.tar:
                for name in _mount_names(row.directory):
                    self._mounts.release(name)

        return end

    def sweep(self) -> None:
        self._mounts.clear()
        super().sweep()

    def close(self) -> None:
        self._mounts.clear()

    def _lower(self, directories: Sequence[str]) -> tuple[str, ...]:
        paths: list[str] = []
        tars: list[str] = []
        for directory in directories:
            if not os.path.isdir(self._tree(directory)):
                tars.append(directory)
                continue
            paths += self._shown(tars, lowest=False)
            tars = []
            paths.append(self._tree(directory))
        return (*paths, *self._shown(tars, lowest=True))

    def _shown(self, directories: list[str], *, lowest: bool) -> list[str]:
        """Where layers that follow each other, top first, are mounted."""
        if len(directories) >= _MERGE_FROM:
            with contextlib.suppress(TooLarge):
                return [self._mounts.path(_mount_names(directories[0])[1], partial(self._merged_parts, directories, lowest=lowest))]
        return [self._mounts.path(one, partial(self._parts, one)) for one in directories]

    def _parts(self, directory: str) -> tuple[str, list[str]]:
        """A layer's index and devices, looked at."""
        self._ensure(directory)
        return self._shelf.path(directory, _INDEX), self._devices(directory)

    def _merged_parts(self, directories: list[str], *, lowest: bool) -> tuple[str, list[str]]:
        for directory in directories:
            self._ensure(directory)
        merged = self._merge(directories, lowest=lowest)
        return merged, [path for directory in reversed(directories) for path in self._devices(directory)]

    def _ensure(self, directory: str) -> None:
        """The layer is what its row says, as far as can be seen without reading its tar; an index that is not is built again.

        Raises SnapshotDamaged.
        """
        name, row = self._shelf.named(directory)
        if row.damaged:
            raise damaged(name, "was set aside")
        if not row.tar:
            raise damaged(name, "has lost its files")
        if fact := self._tar_fact(row):
            raise damaged(name, fact)
        if self._index_fact(row):
            log.warning("layer %s: its index %s: it is built again", name, self._index_fact(row))
            self._rebuild(name, row)

    def _tar_fact(self, row: Row) -> str:
        """What is wrong with the tar's size; empty for nothing."""
        try:
            size = os.stat(self._shelf.path(row.directory, _TAR)).st_size
        except FileNotFoundError:
            return "has lost its tar"
        return f"has a tar of {size} bytes instead of {row.tar_bytes}" if row.tar_bytes not in (-1, size) else ""

    def _index_fact(self, row: Row) -> str:
        """What is wrong with the index and the sparse files' size; empty for nothing."""
        found = _checksum(self._shelf.path(row.directory, _INDEX))
        if found is None:
            return "is missing"
        if row.index_sum not in (-1, found):
            return "is damaged"
        sparse = _size(self._shelf.path(row.directory, _SPARSE))
        return "names sparse files that are missing" if row.sparse_bytes not in (-1, sparse) else ""

    def _rebuild(self, name: str, row: Row) -> None:
        """Index and sparse files again, from the tar.  Raises SnapshotDamaged when they are not what they were."""
        with self._shelf.making() as directory:
            os.link(self._shelf.path(row.directory, _TAR), self._shelf.path(directory, _TAR))
            try:
                with self._indexing(directory, row.below) as indexing:
                    found = indexing.finish()
            except InvalidArchive as error:
                raise damaged(name, f"has a damaged tar: {error}") from error
            if row.index_sum not in (-1, found.index_sum) and file_digest(self._shelf.path(row.directory, _TAR)) != row.tar:
                raise damaged(name, "has a damaged tar")  # else another version of this program made that index
            for part in (_SPARSE, _INDEX):
                if os.path.exists(made := self._shelf.path(directory, part)):
                    os.rename(made, self._shelf.path(row.directory, part))
            self._shelf.make_durable(row.directory)
            self._shelf.amend(name, index_sum=found.index_sum, sparse_bytes=found.sparse_bytes)
            self._shelf.discard(directory)

    def _check(self, name: str, row: Row, *, quick: bool, tick: Tick) -> Iterator[Finding]:
        if not row.tar:
            yield from super()._check(name, row, quick=quick, tick=tick)
            return
        subject = f"layer {name}"
        fact = self._tar_fact(row)
        if not fact and not quick:
            fact = "has a damaged tar" if file_digest(self._shelf.path(row.directory, _TAR), tick) != row.tar else ""
        if fact and self._shelf.get(name) == row:
            remedy = "set aside, until a pull or load brings it again"
            yield Finding(subject=subject, fact=fact, remedy=remedy, mend=partial(self._set_aside, name, row))
            return
        index = self._index_fact(row) or (
            "" if quick or row.sparse_bytes <= 0 or self._sparse_is_true(row) else "names damaged sparse files"
        )
        if index and self._shelf.get(name) == row:
            fact = f"has an index that {index}"
            yield Finding(subject=subject, fact=fact, remedy="build it again from the tar", mend=partial(self._rebuild, name, row))
        merged = _checksum(path := self._shelf.path(row.directory, _MERGED))
        if merged is not None and row.merged_sum not in (-1, merged) and self._shelf.get(name) == row:
            fact = "has a damaged merged index"
            yield Finding(subject=subject, fact=fact, remedy="remove it: it is made when it is needed", mend=partial(os.unlink, path))

    def _sparse_is_true(self, row: Row) -> bool:
        with self._shelf.making() as directory:
            os.link(self._shelf.path(row.directory, _TAR), self._shelf.path(directory, _TAR))
            with self._indexing(directory, row.below) as indexing:
                indexing.finish()
            same = same_bytes(self._shelf.path(directory, _SPARSE), self._shelf.path(row.directory, _SPARSE))
            self._shelf.discard(directory)
        return same

    def _set_aside(self, name: str, row: Row) -> None:
        self._shelf.set_aside(name)
        for mounted in _mount_names(row.directory):
            self._mounts.release(mounted)

    def _merge(self, directories: list[str], *, lowest: bool) -> str:
        """One index over several layers, top first, kept beside the topmost's own.  Raises TooLarge."""
        path = self._shelf.path(directories[0], _MERGED)
        with self._merging:
            name, row = self._shelf.named(directories[0])
            found = _checksum(path)
            if found is not None and row.merged_sum in (-1, found):
                return path
            parts = [self._part(directory) for directory in reversed(directories)]
            with self._shelf.adding(directories[0], _MERGED) as fresh:
                merged_sum = merge(self._start, parts, fresh, lowest=lowest)
            self._shelf.amend(name, merged_sum=merged_sum)
        return path

    def _indexing(self, directory: str, below: tuple[str, ...], *, growing: bool = False) -> Indexing:
        """The index of a directory's tar on its way."""
        tar, sparse, index = (self._shelf.path(directory, part) for part in (_TAR, _SPARSE, _INDEX))
        return Indexing(self._start, tar, sparse, index, base=self._base(below), limits=self._limits, growing=growing)

    def _base(self, below: tuple[str, ...]) -> Base:
        """A root directory that looks like the parent's."""
        if not below:
            return Base()
        if not os.path.isdir(self._tree(below[0])):
            self._ensure(below[0])
            with open(self._shelf.path(below[0], _INDEX), "rb") as file:
                root = decode_root(file.read(_HEAD))
            return Base(mode=stat.S_IMODE(root.mode), uid=root.uid, gid=root.gid, mtime_ns=root.mtime_ns, lowest=False)
        status = os.lstat(self._tree(below[0]))
        mode = stat.S_IMODE(status.st_mode)
        return Base(mode=mode, uid=status.st_uid, gid=status.st_gid, mtime_ns=status.st_mtime_ns, lowest=False)

    def _finish_tar(self, name: str | None, parent: str | None, directory: str, found: Indexed, diff_id: Digest) -> LayerFacts:
        facts = LayerFacts(diff_id=diff_id, size_bytes=found.size_bytes)
        self._share_tar(directory, str(diff_id))
        row = Row(
            directory=directory,
            parent=parent,
            below=self._below(parent),
            tar=str(diff_id),
            tar_bytes=found.tar_bytes,
            sparse_bytes=found.sparse_bytes,
            index_sum=found.index_sum,
        )
        self._finish(name or stacked(parent, diff_id), row, facts)
        return facts

    def _share_tar(self, directory: str, diff_id: str) -> None:
        """The same layer on another parent is the same tar: keep one."""
        own = self._shelf.path(directory, _TAR)
        for row in self._shelf.with_tar(diff_id):
            if os.stat(own).st_nlink == 1:
                with contextlib.suppress(FileNotFoundError):
                    os.link(self._shelf.path(row.directory, _TAR), f"{own}.new")
                    os.rename(f"{own}.new", own)
                    return

    def _devices(self, directory: str) -> list[str]:
        paths = [self._shelf.path(directory, part) for part in (_TAR, _SPARSE)]
        return paths if os.path.exists(paths[1]) else paths[:1]

    def _part(self, directory: str) -> Part:
        devices = [(os.stat(path).st_size, os.path.basename(path)) for path in self._devices(directory)]
        return Part(index_path=self._shelf.path(directory, _INDEX), devices=devices)

    def _needed(self) -> set[str]:
        return {name for row in self._shelf.rows() if row.active for directory in row.below for name in _mount_names(directory)}


def _mount_names(directory: str) -> tuple[str, str]:
    """Of a layer's own index, and of one merged with those below it."""
    return directory, f"{directory}m"


class _Handed:
    """Takes what is written and has it kept."""

    def __init__(self, keeper: Background) -> None:
        self._keeper = keeper

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._keeper.put(bytes(data) if isinstance(data, bytearray) else data)
        return len(data)


class _Keeper:
    """Writes a tar, tells how far it is, and lets it go to the disk while it comes."""

    def __init__(self, tar: io.FileIO, indexing: Indexing | None = None) -> None:
        self._tar = tar
        self._indexing = indexing
        self._size = 0
        self._begun = 0

    def take(self, data: bytes | memoryview) -> None:
        write_all(self._tar, data)
        self._size += len(data)
        if self._indexing is not None:
            self._indexing.mark(self._size)
        if self._size - self._begun >= _AT_ONCE:
            writeback.start(self._tar.fileno(), self._begun, self._size - self._begun)
            self._begun = self._size


def _checksum(path: str) -> int | None:
    """None: there is no such file."""
    try:
        with open(path, "rb") as file:
            found = 0
            while block := file.read(_CHUNK):
                found = zlib.crc32(block, found)
            return found
    except FileNotFoundError:
        return None


def _size(path: str) -> int:
    """0: there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def erofs_works(data_root: str) -> bool:
    """Whether an EROFS image in ``data_root`` can be mounted with a second file as its device; what is tried is attached nowhere."""
    os.makedirs(data_root, mode=0o700, exist_ok=True)
    directory = tempfile.mkdtemp(dir=data_root, prefix="erofs-probe-")
    try:
        tar, index = os.path.join(directory, _TAR), os.path.join(directory, _INDEX)
        with open(tar, "wb") as file:
            file.write(bytes(BLOCK))
        with open(index, "wb") as file:
            file.write(encode(new_directory(), [Device(BLOCK, "probe")]))
        os.close(attach(index, [tar]))
    except OSError:
        return False
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return True
