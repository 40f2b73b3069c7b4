"""Mark what is referenced, sweep the rest: blobs and snapshots that no record leads to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from wherry.store.content import Content
from wherry.store.snapshot import SnapshotInfo, SnapshotInUse, SnapshotMissing, Snapshotter

UNNAMED: Final = ""
"""Held by who makes something whose name shows at the end only: it may turn out to be anything that is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """What records refer to: digests of blobs; names and keys of snapshots (their parents follow by themselves).

    ``complete`` False: a record that can't be read refers to more, so that nothing is garbage.
    """

    content: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()
    complete: bool = True


@dataclass(slots=True)
class Swept:
    content: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    reclaimed_bytes: int = 0


class Garbage:
    """Who makes something whose record comes later holds its name meanwhile, before looking whether it is there::

        with garbage.hold() as hold:
            hold(digest)
            if not content.has(digest):
                download(digest)
            records.put(...)

    A sweep waits for nobody, and nobody for a sweep: files are removed while no lock is held.
    """

    def __init__(self, content: Content, snapshots: Snapshotter, roots: Callable[[], Roots], idle: Callable[[], object] = bool) -> None:
        """``roots`` reads the records anew at each call. ``idle``: called, in any thread, when what was put off can be collected."""
        self._content = content
        self._snapshots = snapshots
        self._roots = roots
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._holds: dict[int, set[str]] = {}
        self._seen: set[str] = set()
        self._next = 0
        self._idle = idle
        self._is_put_off = False

    @contextmanager
    def hold(self) -> Iterator[Callable[[str], None]]:
        """Names given to the callable are safe from sweeps until the block ends."""
        with self._lock:
            self._next += 1
            ident = self._next
            names = self._holds[ident] = set()

        def add(name: str) -> None:
            with self._lock:
                names.add(str(name))
                self._seen.add(str(name))

        try:
            yield add
        finally:
            with self._lock:
                del self._holds[ident]
            self._collect_if_idle()

    def put_off(self) -> None:
        """Somebody would have removed what is held: it is looked at again when nobody holds anything any more."""
        self._is_put_off = True
        self._collect_if_idle()

    def _collect_if_idle(self) -> None:
        with self._lock:
            is_due = self._is_put_off and not self._holds
            self._is_put_off = self._is_put_off and not is_due
        if is_due:
            self._idle()

    def start(self) -> Swept:
        """At the daemon's start: what a crash left, then a sweep."""
        self._content.sweep()
        self._snapshots.sweep()
        return self.sweep()

    def sweep(self) -> Swept:
        """Remove what is neither referenced nor held.

        What was held at any time since the sweep began is kept too: its record may be newer than the roots read here.
        """
        swept = Swept()
        with self._sweeping:
            with self._lock:
                self._seen = set().union(*self._holds.values())
            blobs = list(self._content.digests())
            infos = self._snapshots.items()
            roots = self._roots()
            if not roots.complete:
                return swept
            self._sweep_snapshots(infos, roots.snapshots, swept)
            if swept.snapshots:
                roots = self._roots()  # a blob may have been kept for a snapshot alone
            for digest in blobs:
                if digest not in roots.content:
                    with self._lock:
                        if digest in self._seen or UNNAMED in self._seen:
                            continue
                        try:
                            size = self._content.size(digest)
                        except FileNotFoundError:
                            continue
                        self._content.delete(digest)
                    swept.content.append(digest)
                    swept.reclaimed_bytes += size
        return swept

    def collect(self) -> Swept:
        """`sweep`, at any time: put off while anybody makes something, for not all of it has a name yet that could be held."""
        with self._lock:
            if self._holds:
                self._is_put_off = True
                return Swept()
        return self.sweep()

    def unreferenced(self, roots: Roots | None = None) -> list[tuple[str, str, int]]:
        """What `collect` would remove now: (blob or layer, its name, bytes); ``roots``: if these were all, and nobody at work."""
        with self._lock:
            if self._holds and roots is None:
                return []
            held = set().union(*self._holds.values())
        infos = self._snapshots.items()
        blobs = list(self._content.digests())
        roots = roots or self._roots()
        if not roots.complete:
            return []
        with self._lock:
            held |= set().union(*self._holds.values())
        parents = {info.name: info.parent for info in infos}
        marked = _with_parents(roots.snapshots | held, parents)
        found: list[tuple[str, str, int]] = []
        for name in parents.keys() - marked:
            with suppress(LookupError, OSError):
                found.append(("layer", name, self._snapshots.usage(name)))
        for digest in blobs:
            if digest not in roots.content and digest not in held:
                with suppress(OSError):
                    found.append(("blob", digest, self._content.size(digest)))
        return found

    def _sweep_snapshots(self, infos: list[SnapshotInfo], referenced: frozenset[str], swept: Swept) -> None:
        parents = {info.name: info.parent for info in infos}
        with self._lock:
            marked = _with_parents(referenced | self._seen, parents)
        for name in _children_first([name for name in parents if name not in marked], parents):
            try:
                size = self._snapshots.usage(name)
            except SnapshotMissing:  # who used it last removed it since we looked
                continue
            with self._lock:
                held = _with_parents(frozenset(self._seen), parents)
                if name in held or UNNAMED in held:
                    continue
                try:
                    discard = self._snapshots.detach(name)
                except (SnapshotMissing, SnapshotInUse):  # it went, or somebody stands on it, since we looked
                    continue
            discard()
            swept.snapshots.append(name)
            swept.reclaimed_bytes += size


def _with_parents(names: frozenset[str] | set[str], parents: dict[str, str | None]) -> set[str]:
    marked: set[str] = set()
    for name in names:
        current: str | None = name
        while current is not None and current not in marked:
            marked.add(current)
            current = parents.get(current)
    return marked


def _children_first(names: list[str], parents: dict[str, str | None]) -> list[str]:
    def depth(name: str) -> int:
        count = 0
        parent = parents.get(name)
        while parent is not None:
            count += 1
            parent = parents.get(parent)
        return count

    return sorted(names, key=depth, reverse=True)
