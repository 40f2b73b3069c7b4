"""Snapshots as whole copies, for file systems that overlayfs cannot use; blocks are shared where the file system can."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from wherry.spec.digest import Digest
from wherry.spec.mounts import Rootfs
from wherry.store.contents import Contents, DirectoryContents, Selection
from wherry.store.layer import HashingSink, NullSink, copy_directory, hash_only
from wherry.store.parsing import Start, inline, unpack
from wherry.store.records import Records
from wherry.store.shelf import Shelf
from wherry.store.snapshot import Change, ChangeKind, Composed, LayerFacts, Row, SnapshotExists, SnapshotInfo, stacked
from wherry.store.soundness import Finding, Tick, no_tick
from wherry.tree.apply import Whiteouts
from wherry.tree.compare import Difference, Kind, compare
from wherry.tree.pack import PackOptions, pack, packed_size
from wherry.tree.tar import Limits, Sink, Source

_TREE = "d"


class Vfs:
    """The Snapshotter that needs nothing of the kernel: a snapshot is a directory with everything in it."""

    name = "vfs"
    keeps_tars = False

    def __init__(self, data_root: str, records: Records, limits: Limits | None = None, start: Start = inline) -> None:
        self._start = start
        self._shelf = Shelf(data_root, records)
        self._limits = limits or Limits()

    def prepare(self, key: str, parent: str | None) -> Rootfs:
        with self._shelf.making(_TREE) as directory:
            self._copy_parent(parent, directory)
            if parent is not None:
                self._shelf.make_durable(directory)  # a container whose row outlives a power cut has its files then too
            self._shelf.insert(key, Row(directory=directory, parent=parent, active=True))
        return Rootfs(upper=self._tree(directory))

    def is_quick(self, parent: str | None) -> bool:
        return parent is None

    def view(self, parent: str) -> Rootfs:
        return Rootfs(lower=(self._tree(self._shelf.committed(parent).directory),))

    def rootfs(self, key: str) -> Rootfs:
        return Rootfs(upper=self._tree(self._shelf.active(key).directory))

    def commit(self, key: str, name: str) -> None:
        row = self._shelf.active(key)
        if not self.exists(name):
            self._shelf.make_durable(row.directory)
            size = self._shelf.noted_size(row.directory)
            if size < 0:
                size = self.usage(key)
            if self._shelf.rename(key, name, Row(directory=row.directory, parent=row.parent, size_bytes=size)):
                return
        self._shelf.remove(key)

    def capture(self, key: str) -> LayerFacts:
        row = self._shelf.active(key)
        with self._shelf.making(_TREE) as directory:
            copy_directory(self._tree(row.directory), self._tree(directory))
            copied = Row(directory=directory, parent=row.parent)
            facts = self._pack(copied, NullSink())
            self._finish(stacked(row.parent, facts.diff_id), copied, facts)
        return facts

    def apply(self, name: str | None, parent: str | None, stream: Source, *, expected: Digest | None = None) -> LayerFacts:
        if parent is not None:
            self._shelf.committed(parent)
        if name is not None and self.exists(name):
            return LayerFacts(diff_id=hash_only(stream, expected), size_bytes=self.usage(name))
        with self._shelf.making(_TREE) as directory:
            self._copy_parent(parent, directory)
            facts = unpack(self._start, stream, self._tree(directory), Whiteouts.DELETE, self._limits, expected)
            self._finish(name or stacked(parent, facts.diff_id), Row(directory=directory, parent=parent), facts)
        return facts

    def compose(self, parent: str | None, layer: Composed) -> LayerFacts:
        raise NotImplementedError("tars are not kept")

    def adopt(self, name: str, parent: str | None, path: str, diff_id: Digest) -> LayerFacts:
        with open(path, "rb") as tar:
            return self.apply(name, parent, tar, expected=diff_id)

    def pack(self, key_or_name: str, out: Sink) -> LayerFacts:
        row = self._shelf.row(key_or_name)
        facts = self._pack(row, out)
        if row.active:
            self._shelf.note_size(row.directory, facts.size_bytes)
        return facts

    def write(self, name: str, out: Sink) -> None:
        self._write(self._shelf.committed(name), out)

    def packed_size(self, name: str) -> int:
        row = self._shelf.committed(name)
        with ExitStack() as stack:
            return packed_size(self._open(row.directory, stack), self._options(row, stack))

    def changes(self, key: str) -> Iterator[Change]:
        with ExitStack() as stack:
            differences = self._compare(self._shelf.row(key), stack)
        for difference in differences:
            yield Change(path="/" + difference.path, kind=ChangeKind(difference.kind))

    def contents(self, name: str) -> Contents:
        row = self._shelf.committed(name)
        with ExitStack() as stack:
            differences = self._compare(row, stack)
        gone: dict[bytes, list[bytes]] = {}
        for difference in differences:
            if difference.kind is Kind.DELETED:
                directory, _, deleted = os.fsencode(difference.path).rpartition(b"/")
                gone.setdefault(directory, []).append(deleted)
        present = frozenset(os.fsencode(item.path) for item in differences if item.kind is not Kind.DELETED)
        return DirectoryContents(self._tree(row.directory), Selection(present=present, gone=gone))

    def usage(self, key_or_name: str) -> int:
        row = self._shelf.row(key_or_name)
        return row.size_bytes if row.size_bytes >= 0 else self._pack(row, NullSink()).size_bytes

    def exists(self, name: str) -> bool:
        row = self._shelf.get(name)
        return row is not None and not row.active and not row.damaged

    def remove(self, key_or_name: str) -> None:
        self.detach(key_or_name)()

    def detach(self, key_or_name: str) -> Callable[[], None]:
        return self._shelf.detach(key_or_name)

    def items(self) -> list[SnapshotInfo]:
        return self._shelf.items()

    def check(self, *, quick: bool, tick: Tick = no_tick) -> Iterator[Finding]:
        yield from self._shelf.check()
        for name, row in self._shelf.named_rows():
            tick()
            if not row.damaged and not os.path.isdir(self._tree(row.directory)) and self._shelf.get(name) == row:
                yield Finding(
                    subject=f"{'container layer' if row.active else 'layer'} {name}",
                    fact=f"has no directory {self._tree(row.directory)}",
                    remedy="remove the container" if row.active else "set aside, until a pull, load or build brings it again",
                    mend=None if row.active else partial(self._shelf.set_aside, name),
                )

    def on_disk(self) -> dict[str, int]:
        return self._shelf.on_disk()

    def sweep(self) -> None:
        self._shelf.sweep(_TREE)

    def close(self) -> None:
        return

    def _tree(self, directory: str) -> str:
        return self._shelf.path(directory, _TREE)

    def _copy_parent(self, parent: str | None, directory: str) -> None:
        if parent is not None:
            copy_directory(self._tree(self._shelf.committed(parent).directory), self._tree(directory))

    def _finish(self, name: str, row: Row, facts: LayerFacts) -> None:
        self._shelf.make_durable(row.directory)
        try:
            self._shelf.insert(name, Row(directory=row.directory, parent=row.parent, size_bytes=facts.size_bytes))
        except SnapshotExists:
            self._refill(name, Row(directory=row.directory, parent=row.parent, size_bytes=facts.size_bytes))

    def _refill(self, name: str, row: Row) -> None:
        try:
            self._shelf.refill(name, row)
        except SnapshotExists:
            self._shelf.discard(row.directory)

    def _compare(self, row: Row, stack: ExitStack) -> list[Difference]:
        old_fd = None if row.parent is None else self._open(self._shelf.row(row.parent).directory, stack)
        return compare(old_fd, self._open(row.directory, stack))

    def _pack(self, row: Row, out: Sink) -> LayerFacts:
        with HashingSink(out) as sink:
            size_bytes = self._write(row, sink)
            return LayerFacts(diff_id=sink.digest(), size_bytes=size_bytes)

    def _write(self, row: Row, out: Sink) -> int:
        with ExitStack() as stack:
            return pack(self._open(row.directory, stack), out, self._options(row, stack)).size_bytes

    def _options(self, row: Row, stack: ExitStack) -> PackOptions:
        """Only what differs from the parent."""
        differences = self._compare(row, stack)
        present = {difference.path for difference in differences if difference.kind is not Kind.DELETED}
        deleted: dict[str, list[str]] = {}
        for difference in differences:
            if difference.kind is Kind.DELETED:
                directory, _, name = difference.path.rpartition("/")
                deleted.setdefault(directory, []).append(name)
        limit = self._limits.total_bytes if row.size_bytes < 0 else None  # one in the making may not be larger than one that arrives
        return PackOptions(skip=lambda path: path not in present, deleted=deleted, limit_bytes=limit)

    def _open(self, directory: str, stack: ExitStack) -> int:
        fd = os.open(self._tree(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd
