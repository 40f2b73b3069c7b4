"""Snapshots as overlayfs stacks: a layer is the upper directory it was written in, and becomes a lower one without a copy."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from wherry.kernel import files
from wherry.spec.digest import Digest
from wherry.spec.mounts import Rootfs
from wherry.store.contents import Contents, DirectoryContents
from wherry.store.layer import HashingSink, NullSink, copy_directory, hash_only
from wherry.store.parsing import Start, inline, unpack
from wherry.store.records import Records
from wherry.store.shelf import Shelf
from wherry.store.snapshot import Change, ChangeKind, Composed, LayerFacts, Row, SnapshotExists, SnapshotInfo, stacked
from wherry.store.soundness import Finding, Tick, no_tick
from wherry.tree.apply import OVERLAY_OPAQUE, Whiteouts
from wherry.tree.pack import PackOptions, pack, packed_size
from wherry.tree.remove import remove
from wherry.tree.tar import Limits, Sink, Source

log = logging.getLogger(__name__)
_TREE = "d"  # a layer's own changes: the upper directory, later a lower one
_WORK = "w"  # overlayfs's working directory
_MOMENT_S = 0.2


class Overlay:
    """The Snapshotter for kernels that can mount overlayfs on the data root.

    The mounts must have redirect_dir, metacopy and index off: an upper directory is complete in itself.
    """

    name = "overlay"
    keeps_tars = False

    def __init__(self, data_root: str, records: Records, limits: Limits | None = None, start: Start = inline) -> None:
        self._start = start
        self._shelf = Shelf(data_root, records)
        self._limits = limits or Limits()

    def prepare(self, key: str, parent: str | None) -> Rootfs:
        below = self._below(parent)
        with self._shelf.making(_TREE, _WORK) as directory:
            if below:
                self._shelf.copy_root_metadata(self._lower(below)[0], self._tree(directory))
            row = Row(directory=directory, parent=parent, active=True, below=below)
            self._shelf.insert(key, row)
        return self._rootfs(row)

    def is_quick(self, parent: str | None) -> bool:
        return True

    def view(self, parent: str) -> Rootfs:
        row = self._shelf.committed(parent)
        return Rootfs(lower=self._lower((row.directory, *row.below)))

    def rootfs(self, key: str) -> Rootfs:
        return self._rootfs(self._shelf.active(key))

    def commit(self, key: str, name: str) -> None:
        row = self._shelf.active(key)
        if not self.exists(name):
            self._drop_work(row.directory)
            self._shelf.make_durable(row.directory)
            size = self._shelf.noted_size(row.directory)
            if size < 0:
                size = self._shelf.measure(row.directory, _TREE)
            made = Row(directory=row.directory, parent=row.parent, below=row.below, size_bytes=size, packs=True)
            if self._shelf.rename(key, name, made):
                return
        self._shelf.remove(key)

    def capture(self, key: str) -> LayerFacts:
        row = self._shelf.active(key)
        with self._shelf.making(_TREE) as directory:
            copy_directory(self._tree(row.directory), self._tree(directory))
            facts = self._pack(directory, NullSink(), row.below)
            copied = Row(directory=directory, parent=row.parent, below=row.below, packs=True)
            self._finish(stacked(row.parent, facts.diff_id), copied, facts)
        return facts

    def apply(self, name: str | None, parent: str | None, stream: Source, *, expected: Digest | None = None) -> LayerFacts:
        below = self._below(parent)
        if name is not None and self.exists(name):
            return LayerFacts(diff_id=hash_only(stream, expected), size_bytes=self.usage(name))
        with self._shelf.making(_TREE) as directory:
            if below:
                self._shelf.copy_root_metadata(self._tree(below[0]), self._tree(directory))
            facts = unpack(self._start, stream, self._tree(directory), Whiteouts.OVERLAY, self._limits, expected)
            self._finish(name or stacked(parent, facts.diff_id), Row(directory=directory, parent=parent, below=below), facts)
        return facts

    def compose(self, parent: str | None, layer: Composed) -> LayerFacts:
        raise NotImplementedError("tars are not kept")

    def adopt(self, name: str, parent: str | None, path: str, diff_id: Digest) -> LayerFacts:
        with open(path, "rb") as tar:
            return self.apply(name, parent, tar, expected=diff_id)

    def pack(self, key_or_name: str, out: Sink) -> LayerFacts:
        row = self._shelf.row(key_or_name)
        facts = self._pack(row.directory, out, row.below if row.active else None)
        if row.active:
            self._shelf.note_size(row.directory, facts.size_bytes)
        return facts

    def write(self, name: str, out: Sink) -> None:
        self._write(self._shelf.committed(name).directory, out)

    def packed_size(self, name: str) -> int:
        with contextlib.ExitStack() as stack:
            return packed_size(_opened(self._tree(self._shelf.committed(name).directory), stack), PackOptions(overlay=True))

    def changes(self, key: str) -> Iterator[Change]:
        row = self._shelf.row(key)
        fd = os.open(self._tree(row.directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield from _changes(fd, list(self._lower(row.below)))
        finally:
            os.close(fd)

    def contents(self, name: str) -> Contents:
        return DirectoryContents(self._tree(self._shelf.committed(name).directory))

    def usage(self, key_or_name: str) -> int:
        row = self._shelf.row(key_or_name)
        if row.size_bytes >= 0:
            return row.size_bytes
        return self._shelf.measure(row.directory, _TREE)

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
            if not row.damaged and self._shelf.get(name) == row:
                yield from self._check(name, row, quick=quick, tick=tick)

    def _check(self, name: str, row: Row, *, quick: bool, tick: Tick) -> Iterator[Finding]:
        """What is wrong with one snapshot that is a directory."""
        subject = f"{'container layer' if row.active else 'layer'} {name}"
        parts = [part for part in (_TREE, _WORK) if part == _TREE or (row.active and row.below)]
        for part in parts:
            if self._is_missing(name, row, path := self._shelf.path(row.directory, part)):
                mend = partial(self._make_again, name, row, path) if row.active else partial(self._shelf.set_aside, name)
                remedy = "make it again, empty" if row.active else "set aside, until a pull, load or build brings it again"
                yield Finding(subject=subject, fact=f"has no directory {path}", remedy=remedy, mend=mend)
                return
        if quick or not row.packs:
            return
        found = stacked(row.parent, self._pack(row.directory, NullSink()).diff_id)
        if found != name and self._shelf.get(name) == row:
            yield Finding(
                subject=subject,
                fact="has files that are not those it was made with",
                remedy="set aside, until a pull, load or build brings it again",
                mend=partial(self._shelf.set_aside, name),
            )

    def _is_missing(self, name: str, row: Row, path: str) -> bool:
        """Also a moment later: who commits an active snapshot takes its work directory away first."""
        if os.path.isdir(path):
            return False
        if row.active:
            time.sleep(_MOMENT_S)
        return not os.path.isdir(path) and self._shelf.get(name) == row

    def _make_again(self, name: str, row: Row, path: str) -> None:
        if self._shelf.get(name) == row:
            _make_directory(path)

    def on_disk(self) -> dict[str, int]:
        return self._shelf.on_disk()

    def sweep(self) -> None:
        self._shelf.sweep(_TREE, _WORK)

    def close(self) -> None:
        return

    def _tree(self, directory: str) -> str:
        return self._shelf.path(directory, _TREE)

    def _lower(self, directories: Sequence[str]) -> tuple[str, ...]:
        """Where the layers in these directories show, top first."""
        return tuple(map(self._tree, directories))

    def _below(self, parent: str | None) -> tuple[str, ...]:
        if parent is None:
            return ()
        row = self._shelf.committed(parent)
        return (row.directory, *row.below)

    def _rootfs(self, row: Row) -> Rootfs:
        lower = self._lower(row.below)
        work = self._shelf.path(row.directory, _WORK) if lower else None
        return Rootfs(lower=lower, upper=self._tree(row.directory), work=work)

    def _finish(self, name: str, row: Row, facts: LayerFacts) -> None:
        """Durable first, then the row; when somebody else made the same snapshot meanwhile, theirs stays."""
        self._shelf.make_durable(row.directory)
        try:
            self._shelf.insert(name, msgspec.structs.replace(row, size_bytes=facts.size_bytes))
        except SnapshotExists:
            self._refill(name, msgspec.structs.replace(row, size_bytes=facts.size_bytes))

    def _refill(self, name: str, row: Row) -> None:
        """There is one of this name: if it is damaged this one takes its place."""
        try:
            self._shelf.refill(name, row)
        except SnapshotExists:
            self._shelf.discard(row.directory)

    def _pack(self, directory: str, out: Sink, below: Sequence[str] | None = None, *, mend: bool = True) -> LayerFacts:
        with HashingSink(out) as sink:
            size_bytes = self._write(directory, sink, below, mend=mend)
            return LayerFacts(diff_id=sink.digest(), size_bytes=size_bytes)

    def _write(self, directory: str, out: Sink, below: Sequence[str] | None = None, *, mend: bool = True) -> int:
        """``below`` (of a layer in the making): opaque marks that hide nothing of these are left out; with ``mend`` for ever.

        Such a one may not be larger than one that arrives.
        """
        with contextlib.ExitStack() as stack:
            fd = _opened(self._tree(directory), stack)
            hides = None if below is None else partial(_hides, [_opened(path, stack) for path in self._lower(below)], mend)
            limit = None if below is None else self._limits.total_bytes
            packed = pack(fd, out, PackOptions(overlay=True, hides=hides, limit_bytes=limit))
            if packed.left_out and below is not None:
                log.warning("too deep for any path, and left out of a layer: %d", packed.left_out)
            return packed.size_bytes

    def _drop_work(self, directory: str) -> None:
        fd = os.open(os.path.join(self._shelf.root_dir, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove(fd, _WORK)
        finally:
            os.close(fd)


def _opened(path: str, stack: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _hides(below: Sequence[int], mend: bool, fd: int, path: str) -> bool:
    """Whether a directory ``path`` lies below.  overlayfs marks a new directory in any case, to spare itself the look-ups."""
    for lower in below:
        with contextlib.suppress(OSError):
            os.close(files.open_beneath(lower, path or ".", os.O_PATH | os.O_DIRECTORY))
            return True
    if mend:
        os.removexattr(fd, OVERLAY_OPAQUE)
    return False


def _make_directory(path: str) -> None:
    os.makedirs(path, mode=0o755, exist_ok=True)
    os.chmod(path, 0o755)


def _changes(root_fd: int, below: list[str]) -> Iterator[Change]:
    """Walk the upper tree ``root_fd`` beside the directories that lie below it, topmost first."""
    pending = [iter([("", below, False)])]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        path, lower, hidden = found
        directories = lower
        if path:
            parent, _, name = path.rpartition("/")
            fd = files.open_beneath(root_fd, parent or ".", os.O_PATH | os.O_DIRECTORY)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                if hidden:
                    yield Change(path="/" + path, kind=ChangeKind.DELETED)
                continue  # else removed meanwhile
            finally:
                os.close(fd)
            if _is_whiteout(status):
                yield Change(path="/" + path, kind=ChangeKind.DELETED)
                continue
            shows, directories = _shown(lower, name)
            yield Change(path="/" + path, kind=ChangeKind.CHANGED if shows else ChangeKind.ADDED)
            if not stat.S_ISDIR(status.st_mode):
                continue
        try:
            fd = files.open_beneath(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            hidden = hidden or _is_opaque(fd)
            names = set(os.listdir(fd))
        finally:
            os.close(fd)
        if hidden:  # what the directory's namesake had is gone, without a mark for each
            names |= _names(directories)
        pending.append(_inside(path, names, directories, hidden))


def _inside(path: str, names: set[str], directories: list[str], hidden: bool) -> Iterator[tuple[str, list[str], bool]]:
    for name in sorted(names):
        inner = f"{path}/{name}" if path else name
        if files.has_name(inner):
            yield inner, directories, hidden


def _names(lower: list[str]) -> set[str]:
    """What the merged directories show."""
    shown: set[str] = set()
    hidden: set[str] = set()
    for directory in lower:
        with os.scandir(directory) as entries:
            found = {entry.name: _is_whiteout(entry.stat(follow_symlinks=False)) for entry in entries}
        shown |= {name for name, gone in found.items() if not gone} - hidden
        hidden |= found.keys()
    return shown


def _shown(lower: list[str], name: str) -> tuple[bool, list[str]]:
    """Whether ``name`` shows from the lower directories, and the directories that are merged under that name."""
    directories: list[str] = []
    for directory in lower:
        path = os.path.join(directory, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            return bool(directories) or not _is_whiteout(status), directories
        directories.append(path)
        if _is_opaque(path):
            break
    return bool(directories), directories


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(directory: int | str) -> bool:
    try:
        return os.getxattr(directory, OVERLAY_OPAQUE) == b"y"
    except OSError:
        return False
