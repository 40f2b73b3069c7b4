"""The rows and directories that both directory snapshotters keep: which snapshots there are, and where."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import msgspec

from wherry.kernel import nodes
from wherry.kernel.spread import spread
from wherry.store import unreadable
from wherry.store.content import sync_directory
from wherry.store.records import Records
from wherry.store.rows import KIND, Rows
from wherry.store.snapshot import Row, SnapshotDamaged, SnapshotExists, SnapshotInfo, SnapshotInUse, SnapshotMissing
from wherry.store.soundness import Finding, quarantine
from wherry.tree.durable import sync_small_tree
from wherry.tree.measure import disk_bytes, tree_bytes
from wherry.tree.remove import remove, remove_empty

_LITTLE = ("d", "w/work", "w")  # all that is in the directory of a container that wrote nothing
_SMALL = 40  # entries that are cheaper to sync one by one


class Shelf:
    """One directory under ``<data_root>/snapshots`` for each row of kind ``layer``; names are short, for overlay's option string."""

    def __init__(self, data_root: str, records: Records) -> None:
        self._records = records
        self._sizes: dict[str, int] = {}
        self._rows = Rows(records)
        self._making: set[str] = set()
        self._going: set[str] = set()
        self._data_root = data_root
        self.root_dir = os.path.join(data_root, "snapshots")
        os.makedirs(self.root_dir, mode=0o700, exist_ok=True)
        spread(self.root_dir)

    def path(self, directory: str, part: str) -> str:
        return os.path.join(self.root_dir, directory, part)

    def get(self, name: str) -> Row | None:
        return self._rows.get(name)

    def row(self, name: str) -> Row:
        """Raises SnapshotMissing."""
        row = self.get(name)
        if row is None:
            raise SnapshotMissing(f"no such snapshot: {name}")
        return row

    def committed(self, name: str) -> Row:
        """Raises SnapshotMissing, also for an active one; SnapshotDamaged."""
        row = self.row(name)
        if row.damaged:
            raise damaged(name, "was set aside")
        if row.active:
            raise SnapshotMissing(f"snapshot {name} is active, not committed")
        return row

    def active(self, key: str) -> Row:
        """Raises SnapshotMissing, also for a committed one."""
        row = self.row(key)
        if not row.active:
            raise SnapshotMissing(f"snapshot {key} is committed, not active")
        return row

    def put(self, name: str, row: Row) -> None:
        self._records.put(KIND, name, msgspec.json.encode(row, enc_hook=str))

    def amend(self, name: str, **fields: int) -> None:
        """Change what a row tells of its files."""
        with self._records.transaction(durable=False):
            row = self.get(name)
            if row is not None and not row.damaged:
                self.put(name, msgspec.structs.replace(row, **fields))

    def insert(self, name: str, row: Row) -> None:
        """The row of a new snapshot.  Raises SnapshotExists.

        That of an active one need not last by itself: the row of what it is for does, and brings this one along.
        """
        with self._records.transaction(durable=not row.active):
            if self.get(name) is not None:
                raise SnapshotExists(f"snapshot {name} exists already")
            self.put(name, row)

    def rename(self, key: str, name: str, row: Row) -> bool:
        """Turn the row ``key`` into ``name``; False, and nothing done, when ``name`` is there and not damaged."""
        with self._records.transaction():
            known = self.get(name)
            if known is not None:
                if not known.damaged:
                    return False
                self.refill(name, row)
            else:
                self.put(name, row)
            self._records.delete(KIND, key)
            return True

    def remove(self, name: str) -> None:
        """Raises SnapshotInUse."""
        self.detach(name)()

    def detach(self, name: str) -> Callable[[], None]:
        """Delete the row; what is returned removes the directory, and a crash before that is mended by `sweep`.  Raises SnapshotInUse."""
        row = self.get(name)
        if row is None:
            return _nothing
        with self._records.transaction(durable=not row.active):
            row = self.get(name)
            if row is None:
                return _nothing
            if not row.active:
                self._refuse_when_parent(name)
            self._going.add(row.directory)
            self._records.delete(KIND, name)
        return partial(self._discard_detached, row.directory)

    def _discard_detached(self, directory: str) -> None:
        try:
            self.discard(directory)
        finally:
            self._going.discard(directory)

    def items(self) -> list[SnapshotInfo]:
        return [SnapshotInfo(name=name, parent=row.parent, active=row.active) for name, row in self.named_rows()]

    def named(self, directory: str) -> tuple[str, Row]:
        """The snapshot whose directory this is.  Raises SnapshotMissing."""
        name = self._rows.named(directory)
        if name is None:
            raise SnapshotMissing(f"no snapshot has the directory {directory}")
        return name, self.row(name)

    def set_aside(self, name: str) -> None:
        """Move a damaged committed snapshot out of the way; its row stays, so that what stands on it finds it when it comes again."""
        with self._records.transaction():
            row = self.row(name)
            self.put(name, Row(directory=row.directory, parent=row.parent, below=row.below, size_bytes=row.size_bytes, damaged=True))
        self._empty(row.directory)

    def refill(self, name: str, row: Row) -> None:
        """A damaged snapshot has come again as ``row``: its directory takes the place of the old one.  Raises SnapshotExists."""
        with self._records.transaction():
            known = self.row(name)
            if not known.damaged:
                raise SnapshotExists(f"snapshot {name} exists already")
            if os.listdir(os.path.join(self.root_dir, known.directory)):
                self._empty(known.directory)
            os.rename(os.path.join(self.root_dir, row.directory), os.path.join(self.root_dir, known.directory))
            sync_directory(self.root_dir)
            self.put(name, msgspec.structs.replace(row, directory=known.directory))

    def _empty(self, directory: str) -> None:
        path = os.path.join(self.root_dir, directory)
        quarantine(self._data_root, path, f"layer-{directory}")
        os.makedirs(path, mode=0o700, exist_ok=True)
        sync_directory(self.root_dir)

    def check(self) -> Iterator[Finding]:
        """What is wrong with the rows, and directories without one."""
        before = set(os.listdir(self.root_dir)) - self._making - self._going
        rows = self.named_rows()
        doubtful = unreadable.is_doubtful(self._records, KIND)
        for name in before - {row.directory for _, row in rows}:
            if not self._is_unnamed(name) or not os.path.lexists(os.path.join(self.root_dir, name)):
                continue  # it went meanwhile
            yield Finding(
                subject=f"snapshots/{name}",
                fact="belongs to no snapshot",
                remedy="set it aside: a record can't be read" if doubtful else "remove it",
                mend=partial(self._quarantine_unnamed if doubtful else self._discard_unnamed, name),
            )
        directories = {name: row.directory for name, row in rows}
        for name, row in rows:
            if row.damaged:
                yield Finding(subject=f"layer {name}", fact="was damaged and set aside", remedy="pull, load or build its image again")
            elif row.below and directories.get(row.parent or "") != row.below[0] and self.get(name) is not None:
                yield Finding(
                    subject=f"layer {name}",
                    fact=f"stands on {row.parent}, which is not there",
                    remedy="pull, load or build its image again",
                    mend=None if row.active else partial(self.set_aside, name),
                )

    def _discard_unnamed(self, name: str) -> None:
        if self._is_unnamed(name):
            self.discard(name)

    def _quarantine_unnamed(self, name: str) -> None:
        if self._is_unnamed(name):
            quarantine(self._data_root, os.path.join(self.root_dir, name), f"layer-{name}")

    def _is_unnamed(self, name: str) -> bool:
        return name not in {row.directory for row in self.rows()} | self._making | self._going

    def note_size(self, directory: str, size_bytes: int) -> None:
        """What packing an active snapshot counted; `noted_size` tells it, once, when that is committed."""
        self._sizes[directory] = size_bytes

    def noted_size(self, directory: str) -> int:
        """-1 when nothing was noted."""
        return self._sizes.pop(directory, -1)

    def discard(self, directory: str) -> None:
        self._sizes.pop(directory, None)
        if remove_empty(os.path.join(self.root_dir, directory), _LITTLE):
            return
        fd = os.open(self.root_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove(fd, directory)
        finally:
            os.close(fd)

    @contextmanager
    def making(self, *parts: str) -> Iterator[str]:
        """A fresh directory with the subdirectories ``parts``, on no row yet; it is removed again when the block raises."""
        directory = self._fresh_directory()
        try:
            for part in parts:
                os.mkdir(self.path(directory, part), 0o755)
                os.chmod(self.path(directory, part), 0o755)
            yield directory
        except BaseException:
            self.discard(directory)
            raise
        finally:
            self._making.discard(directory)

    def _fresh_directory(self) -> str:
        while True:
            directory = secrets.token_hex(3)
            self._making.add(directory)
            try:
                os.mkdir(os.path.join(self.root_dir, directory), 0o700)
            except FileExistsError:
                continue
            except OSError:
                self._making.discard(directory)
                raise
            return directory

    def make_durable(self, directory: str) -> None:
        """All that was written below ``directory``, before the row that names it.

        A small tree is synced file by file: to sync the file system would also wait for what others wrote there.
        """
        fd = os.open(os.path.join(self.root_dir, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not sync_small_tree(fd, _SMALL):
                nodes.syncfs(fd)
        finally:
            os.close(fd)
        sync_directory(self.root_dir)

    @contextmanager
    def adding(self, directory: str, part: str) -> Iterator[str]:
        """A further file in a snapshot's directory: the block makes it, durable, at the path it is given; whole, or not there."""
        target = self.path(directory, part)
        fresh = f"{target}.new"
        with suppress(FileNotFoundError):
            os.unlink(fresh)  # of a daemon that died
        try:
            yield fresh
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(fresh)
            raise
        os.rename(fresh, target)

    def sweep(self, *parts: str) -> None:
        """Remove directories without a row; make an active snapshot's directory ``parts`` again where a power cut took them."""
        known = {row.directory: row for _, row in self.named_rows()}
        if not unreadable.is_doubtful(self._records, KIND):
            for name in os.listdir(self.root_dir):
                if name not in known:
                    self.discard(name)
        for directory, row in known.items():
            if row.active:
                for part in parts:
                    os.makedirs(self.path(directory, part), mode=0o755, exist_ok=True)
        sync_directory(self.root_dir)

    def copy_root_metadata(self, source: str, target: str) -> None:
        """The root directory of a new layer looks like its parent's: in a mount the topmost one's owner and mode show."""
        status = os.lstat(source)
        os.chown(target, status.st_uid, status.st_gid)
        os.chmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def measure(self, directory: str, part: str) -> int:
        """Bytes below one of a snapshot's directories."""
        fd = os.open(self.path(directory, part), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return tree_bytes(fd)
        finally:
            os.close(fd)

    def on_disk(self) -> dict[str, int]:
        """What each snapshot takes of the disk, by name, a tar that several share once; under "" the rest."""
        seen: set[tuple[int, int]] = set()
        found = {name: disk_bytes(os.path.join(self.root_dir, row.directory), seen) for name, row in self.named_rows()}
        return {**found, "": disk_bytes(self.root_dir, seen)}

    def rows(self) -> list[Row]:
        return [row for _, row in self.named_rows()]

    def named_rows(self) -> list[tuple[str, Row]]:
        return self._rows.all()

    def with_tar(self, diff_id: str) -> list[Row]:
        return self._rows.with_tar(diff_id)

    def _refuse_when_parent(self, name: str) -> None:
        if (other := self._rows.child(name)) is not None:
            raise SnapshotInUse(f"snapshot {name} is the parent of {other}")


def _nothing() -> None:
    """Of a snapshot that is not there."""


def damaged(name: str, fact: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        f"layer {name} {fact}: `wherry system fsck --repair` sets aside what is damaged, and a pull, load or build brings it again"
    )
