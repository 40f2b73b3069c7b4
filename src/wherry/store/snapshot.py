"""Snapshots: stacks of layers that a container can have as its root.  The protocol; `erofs`, `overlay` and `vfs` implement it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import msgspec

from wherry.spec.digest import Digest, sha256
from wherry.spec.mounts import Rootfs
from wherry.store.contents import Contents
from wherry.store.soundness import Finding, Tick, no_tick
from wherry.tree.erofs_builder import Builder
from wherry.tree.tar import Sink, Source


class Composed(Protocol):
    """A layer that is made here, so that nobody need look into its tar."""

    def write(self, fd: int, builder: Builder) -> Digest:
        """Write the tar into the empty file ``fd``, and tell ``builder`` of everything in it; its diff_id."""


class ChangeKind(IntEnum):
    """Numbers as the Engine API's ContainerChanges has them."""

    CHANGED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path (absolute, as the container sees it) that differs from the snapshot's parent."""

    path: str
    kind: ChangeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """``diff_id``: the digest of the uncompressed tar. ``size_bytes``: files once each and the text of symlinks, as Docker counts."""

    diff_id: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    name: str
    parent: str | None
    active: bool


class SnapshotMissing(LookupError):
    """No snapshot of this name, or one that is active where a committed one is needed, or the reverse."""


class SnapshotDamaged(SnapshotMissing):
    """The disk does not hold what was stored; it can be pulled, loaded or built again."""


class SnapshotExists(ValueError):
    """The name is taken."""


class SnapshotInUse(ValueError):
    """Another snapshot is made on top of it."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What Records keep of a snapshot (kind ``layer``).

    ``directory``: its own, a short name; ``below``: those of its ancestors, nearest first. ``tar``: the diff_id of the tar it is kept as,
    ``tar_bytes`` and ``sparse_bytes``: the sizes of that and of the file of its sparse files, ``index_sum`` and ``merged_sum``: CRC-32 of
    the indexes; each -1: not known. ``packs``: packing it gives the diff_id that its name was made of. ``damaged``: its directory is empty,
    and filled again when the layer comes again.
    """

    directory: str
    parent: str | None = None
    active: bool = False
    below: tuple[str, ...] = ()
    size_bytes: int = -1  # of its own changes; -1: not counted yet
    tar: str = ""
    tar_bytes: int = -1
    sparse_bytes: int = -1
    index_sum: int = -1
    merged_sum: int = -1
    packs: bool = False
    damaged: bool = False


def stacked(parent: str | None, diff_id: Digest) -> Digest:
    """The chain_id of a layer on top of the committed snapshot ``parent``."""
    return diff_id if parent is None else sha256(f"{parent} {diff_id}".encode())


class Snapshotter(Protocol):
    """Where layers lie and how they are stacked.

    Terms. A *committed* snapshot is immutable and named by its stack's chain_id; its own changes are a *layer*. An *active* snapshot is
    writable and named by any key (a container's id, a build step's). Every snapshot has at most one parent, a committed one.

    Lifecycle. ``apply`` makes a committed snapshot from a tar layer; ``prepare`` makes an active one on top of a parent; ``commit`` turns
    the active one into a committed one, with what was written into it as its layer; ``remove`` ends either.

    All calls block and may come from any thread. A call that raises, or a process or a machine that dies in it, leaves nothing half-made:
    what is being made has no name yet, the row in Records comes last, and a start removes directories without a row.
    Committed snapshots are durable when the call returns; an active one exists after a power cut, with what the kernel had written of it.

    Example: an image of one layer, a container on it, and the container's changes as a new layer::

        facts = snapshots.apply(base, None, stream)
        root = snapshots.prepare(container_id, base)         # mounted by the container's first process
        ...
        facts = snapshots.pack(container_id, NullSink())     # its diff_id
        snapshots.commit(container_id, chain_id([*diff_ids, facts.diff_id]))
    """

    name: str
    keeps_tars: bool  # whether `pack` gives back the very tar that `apply` was given

    def prepare(self, key: str, parent: str | None) -> Rootfs:
        """Make the active snapshot ``key``.  Raises SnapshotExists, SnapshotMissing (the parent)."""

    def is_quick(self, parent: str | None) -> bool:
        """Whether `prepare` on ``parent`` now does no more than make a few directories, so that an event loop may call it."""

    def view(self, parent: str) -> Rootfs:
        """A committed snapshot to read: ``upper`` None, nothing to remove afterwards.  Raises SnapshotMissing."""

    def rootfs(self, key: str) -> Rootfs:
        """The root of an active snapshot again.  Raises SnapshotMissing."""

    def commit(self, key: str, name: str) -> None:
        """Turn the active snapshot ``key``, no longer mounted, into the committed ``name``; without copying.

        When ``name`` is committed already, ``key`` is removed: equal names mean equal content.  Raises SnapshotMissing.
        """

    def capture(self, key: str) -> LayerFacts:
        """Make a committed snapshot of what the active ``key`` has now, by copying its own changes; ``key`` goes on (docker commit).

        Its name is the chain_id of the parent's name and the diff_id.  Raises SnapshotMissing.
        """

    def apply(self, name: str | None, parent: str | None, stream: Source, *, expected: Digest | None = None) -> LayerFacts:
        """Make a committed snapshot from an uncompressed tar layer, read to its end.

        ``name`` None: the chain_id of ``parent`` and the diff_id, for a layer whose digest is not known before.
        Raises SnapshotMissing (the parent), InvalidArchive, DigestMismatch when ``expected`` is not its diff_id, OSError.
        When ``name`` is there already the stream is only hashed and checked.
        """

    def compose(self, parent: str | None, layer: Composed) -> LayerFacts:
        """As ``apply`` without a name, of a layer that is made here; only where tars are kept.  Raises SnapshotMissing, OSError."""

    def adopt(self, name: str, parent: str | None, path: str, diff_id: Digest) -> LayerFacts:
        """As ``apply``, of a tar that lies in a file of the data root and was checked when it came: it may be linked, and is never changed.

        Raises SnapshotMissing (the parent), InvalidArchive, OSError.
        """

    def pack(self, key_or_name: str, out: Sink) -> LayerFacts:
        """Write the snapshot's own changes as an OCI layer tar: the same directory gives the same bytes.

        The digest is that of what was written, also where it comes from a tar that was kept. Raises SnapshotMissing.
        """

    def write(self, name: str, out: Sink) -> None:
        """Write what `pack` does for a committed snapshot, without looking at what it is.  Raises SnapshotMissing."""

    def packed_size(self, name: str) -> int:
        """The length of what `write` writes for a committed snapshot, without reading its files.  Raises SnapshotMissing."""

    def changes(self, key: str) -> Iterator[Change]:
        """What differs from the parent, sorted by path; a directory with changes below it is itself changed, as in ``docker diff``."""

    def contents(self, name: str) -> Contents:
        """The own changes of a committed snapshot, to look at; whoever asks holds the snapshot meanwhile.  Raises SnapshotMissing."""

    def usage(self, key_or_name: str) -> int:
        """Bytes of the snapshot's own changes.  Raises SnapshotMissing."""

    def on_disk(self) -> dict[str, int]:
        """What each snapshot takes of the disk, indexes and all, as du counts; under "" what belongs to none."""

    def exists(self, name: str) -> bool:
        """Whether ``name`` is a committed snapshot, and not known to be damaged."""

    def remove(self, key_or_name: str) -> None:
        """Remove a snapshot; an absent one is success.  Raises SnapshotInUse when another has it as parent."""

    def detach(self, key_or_name: str) -> Callable[[], None]:
        """As ``remove``, but its files go when what is returned is called: that may take long, and nobody need hold a lock meanwhile."""

    def items(self) -> list[SnapshotInfo]:
        """All snapshots, in order of name."""

    def check(self, *, quick: bool, tick: Tick = no_tick) -> Iterator[Finding]:
        """What is wrong with the snapshots, at any time; ``quick``: without reading files whole. ``tick`` is called often, and may raise.

        A layer that can't be mended is set aside: it counts as absent until `apply`, `adopt` or `commit` brings it again, and what stands
        on it is whole again then.
        """

    def sweep(self) -> None:
        """At start, before anything else: remove what a crash left, and make again the empty directories a power cut took."""

    def close(self) -> None:
        """Give up what the kernel holds for this process; containers run on."""
