"""What earlier builds left: for each step's key the layer it made, and for each place in a Dockerfile what its step was last made of.

Records of kind ``build-cache`` (ident: the key). A record is written after its layer is committed, so that one that is found is true;
one whose layer is gone counts as absent. Images that were pulled or loaded are never taken for a step's result.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wherry.store.records import Records
from wherry.store.snapshot import SnapshotInfo, SnapshotInUse, Snapshotter

KIND = "build-cache"
PLACES = "build-place"
_USE_RECORDED_AFTER_S = 3600.0


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``kind``: ``layer`` (``chain``: the committed snapshot), ``same`` (the step changed no file), ``setting`` (only a time), ``input``
    (``digest`` of files of an image) or ``mount`` (a cache mount).  ``parent``: the key before."""

    kind: str
    created: str = ""
    description: str = ""
    parent: str = ""
    chain: str = ""
    diff_id: str = ""
    size_bytes: int = 0
    digest: str = ""
    used_at: float = 0.0
    uses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One entry as ``builder du`` shows it."""

    id: str
    kind: str
    description: str
    parent: str
    size_bytes: int
    in_use: bool
    shared: bool
    created: str
    used_at: float
    uses: int


class Cache:
    """The records of one daemon's builds.  What is learnt during a build is written together (`flush`)."""

    def __init__(self, records: Records, snapshotter: Snapshotter, *, clock: Any = time.time) -> None:
        self.records = records
        self.snapshotter = snapshotter
        self._clock = clock
        self._fresh: dict[str, Entry] = {}
        self._places: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> Entry | None:
        """The entry of ``key`` when it can be used."""
        entry = self._fresh.get(key) or self._stored(key)
        if entry is None or (entry.kind == "layer" and not self.snapshotter.exists(entry.chain)):
            return None
        now = self._clock()
        if now - entry.used_at > _USE_RECORDED_AFTER_S:
            self._fresh[key] = msgspec.structs.replace(entry, used_at=now, uses=entry.uses + 1)
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Learn an entry; it is on disk after `flush`."""
        self._fresh[key] = msgspec.structs.replace(entry, used_at=self._clock(), uses=entry.uses or 1)

    def was(self, place: str) -> Mapping[str, Any] | None:
        """What the step at ``place`` was made of the last time it ran."""
        body = self.records.get(PLACES, place)
        return None if body is None else msgspec.json.decode(body, type=dict[str, Any])

    def remember(self, place: str, parts: Mapping[str, Any]) -> None:
        self._places[place] = dict(parts)

    def flush(self) -> None:
        """Write what was learnt, in one transaction; nothing learnt costs nothing.

        Nobody was promised it, so that it need not last by itself: the row of the next layer, or of the image, brings it along.
        """
        if not self._fresh and not self._places:
            return
        with self.records.transaction(durable=False):
            for key, entry in self._fresh.items():
                self.records.put(KIND, key, msgspec.json.encode(entry))
            for place, parts in self._places.items():
                self.records.put(PLACES, place, msgspec.json.encode(parts))
        self._fresh.clear()
        self._places.clear()

    def _stored(self, key: str) -> Entry | None:
        body = self.records.get(KIND, key)
        return None if body is None else msgspec.json.decode(body, type=Entry)


def place_of(name: str, stage: str, number: int) -> str:
    """The place of a step: which Dockerfile (``name``: the tag or path it is built under), which stage, which instruction."""
    return hashlib.sha256(f"{name}\0{stage}\0{number}".encode()).hexdigest()


def explain(before: Mapping[str, Any] | None, now: Mapping[str, Any], *, same_parent: bool) -> str:
    """Why a step with ``now`` for its parts could not be reused, given what it was made of last time."""
    if before is None:
        return "this step has not been built before"
    if before == now:
        return "the step before it changed" if not same_parent else "its cached layer is gone"
    for name, text in _REASONS:
        old, new = before.get(name), now.get(name)
        if old != new:
            return text(old, new)
    return "the instruction changed"


def _changed_words(what: str) -> Any:
    def told(old: Any, new: Any) -> str:
        return f"{what} changed: {_short(old)} -> {_short(new)}"

    return told


def _changed_args(old: Any, new: Any) -> str:
    names = sorted(set(old or {}) ^ set(new or {}) | {name for name in set(old or {}) & set(new or {}) if old[name] != new[name]})
    return f"the variables changed: {', '.join(names)}"


def _changed_files(old: Any, new: Any) -> str:
    names = [name for name in {**(old or {}), **(new or {})} if (old or {}).get(name) != (new or {}).get(name)]
    return f"the content of {', '.join(names) or 'its sources'} changed"


_REASONS = (
    ("instruction", _changed_words("the instruction")),
    ("command", _changed_words("the command")),
    ("destination", _changed_words("the destination")),
    ("files", _changed_files),
    ("env", _changed_args),
    ("user", _changed_words("the user")),
    ("cwd", _changed_words("the working directory")),
    ("mounts", _changed_words("a mount")),
    ("network", _changed_words("the network")),
)


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def layers(records: Records) -> set[str]:
    """The chain ids that entries hold."""
    return {entry.chain for _, body in records.items(KIND) if (entry := msgspec.json.decode(body, type=Entry)).chain}


def bases(records: Records, snapshots: Iterable[SnapshotInfo], images: Container[str]) -> list[str]:
    """The layers that stay only because cached steps stand on them: of images that are gone.  ``images``: chain ids that images use."""
    parents = {info.name: info.parent for info in snapshots}
    cached = layers(records)
    found: dict[str, None] = {}
    for chain in cached:
        name = parents.get(chain)
        while name is not None and name not in found and name not in images:
            if name not in cached:
                found[name] = None
            name = parents.get(name)
    return list(found)


def shown_kind(entry: Entry) -> str:
    """As BuildKit calls it."""
    return "exec.cachemount" if entry.kind == "mount" else "regular"


def usage(records: Records, images: Container[str], mounts: Mapping[str, int]) -> list[Usage]:
    """Every entry that holds something on disk.  ``images``: chain ids that images use; ``mounts``: `cache_mounts.sizes`."""
    found: list[Usage] = []
    for key, body in records.items(KIND):
        entry = msgspec.json.decode(body, type=Entry)
        if entry.kind in ("layer", "mount"):
            found.append(
                Usage(
                    id=key,
                    kind=shown_kind(entry),
                    description=entry.description,
                    parent=entry.parent,
                    size_bytes=mounts.get(key, entry.size_bytes),
                    in_use=False,
                    shared=entry.chain in images,
                    created=entry.created,
                    used_at=entry.used_at,
                    uses=entry.uses,
                )
            )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """``ids``: keys that are gone; ``bytes``: of layers that nothing else holds; ``mounts``: keys of the cache mounts among them, whose
    directories the caller removes."""

    ids: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which entries may go: those that ``fits`` and were not used for so long, least recently used first.

    Without ``everything`` entries whose layer an image uses are kept: they cost nothing. ``keeps``: how much of so many bytes may stay;
    when that little is left no more goes. ``mounts``: `cache_mounts.sizes` of those that may go, because no build is using them.
    """

    everything: bool = False
    unused_for_s: float = 0.0
    keeps: Callable[[int], int] = lambda total: 0
    mounts: Mapping[str, int] = field(default_factory=dict)
    fits: Callable[[str, Entry], bool] = lambda key, entry: True
    building: Callable[[], bool] = lambda: False  # then layers stay: a build that began before may stand on what it found


def prune(records: Records, snapshotter: Snapshotter, images: Container[str], choice: Choice) -> Pruned:
    """Forget entries, and remove the layers that no image (``images``: their chain ids) is made of."""
    gone, kept = _prunable(records, images, choice)
    with records.transaction():
        for key, _ in gone:
            records.delete(KIND, key)
    unneeded = [entry for _, entry in gone if entry.chain and entry.chain not in images and entry.chain not in kept]
    freed = 0 if choice.building() else _remove_layers(snapshotter, unneeded)
    mounts = [key for key, entry in gone if entry.kind == "mount"]
    return Pruned(ids=[key for key, _ in gone], mounts=mounts, size_bytes=freed + sum(choice.mounts[key] for key in mounts))


def preview(records: Records, images: Container[str], choice: Choice) -> tuple[list[str], set[str]]:
    """What `prune` would do: the keys that go, the layers of those that stay.  ``images`` may leave out what goes before."""
    gone, kept = _prunable(records, images, choice)
    return [key for key, _ in gone], kept - {""}


def _prunable(records: Records, images: Container[str], choice: Choice) -> tuple[list[tuple[str, Entry]], set[str]]:
    """The entries that go, and the layers of those that stay."""
    entries = [(key, msgspec.json.decode(body, type=Entry)) for key, body in records.items(KIND)]
    sizes = {key: choice.mounts.get(key, entry.size_bytes) for key, entry in entries if entry.chain not in images}
    left = sum(sizes.values())
    keep_bytes = choice.keeps(left)
    limit = time.time() - choice.unused_for_s
    gone: list[tuple[str, Entry]] = []
    for key, entry in sorted(entries, key=lambda item: item[1].used_at):
        if keep_bytes and left <= keep_bytes:
            break
        if entry.kind == "mount" and key not in choice.mounts:
            continue
        if entry.used_at > limit or (entry.chain in images and not choice.everything):
            continue
        if not choice.fits(key, entry):
            continue
        gone.append((key, entry))
        left -= sizes.get(key, 0)
    keys = {key for key, _ in gone}
    return gone, {entry.chain for key, entry in entries if key not in keys}


def _remove_layers(snapshotter: Snapshotter, entries: list[Entry]) -> int:
    """Children before parents: go round until nothing more can be removed."""
    freed = 0
    waiting = {entry.chain: entry for entry in entries}
    progress = True
    while waiting and progress:
        progress = False
        for chain, entry in list(waiting.items()):
            try:
                snapshotter.remove(chain)
            except SnapshotInUse:
                continue
            freed += entry.size_bytes
            del waiting[chain]
            progress = True
    return freed
