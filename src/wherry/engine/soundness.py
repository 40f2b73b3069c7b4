"""What is wrong with what is stored, and mending it, while everything goes on: ``system fsck``."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial

import msgspec

from wherry.build import cache
from wherry.engine import unreadable
from wherry.engine.rooms import Rooms
from wherry.images.blocking import produce
from wherry.spec.docker.fsck import Found
from wherry.store.records import Records
from wherry.store.soundness import Finding, Tick, no_tick, quarantine
from wherry.store.unreadable import idents
from wherry.tree.tar import Sink


class SoundnessOperations:
    rooms: Rooms

    async def check_store(self, *, quick: bool, repair: bool) -> AsyncIterator[bytes]:
        """Each finding as it comes, as a line of JSON."""
        return self._lines(quick, repair)

    async def _lines(self, quick: bool, repair: bool) -> AsyncIterator[bytes]:
        async with aclosing(produce(self.rooms.workers.run, partial(_check, self.rooms, quick, repair))) as lines:
            async for line in lines:
                if line:
                    yield line


def _check(rooms: Rooms, quick: bool, repair: bool, out: Sink) -> None:
    for finding in findings(rooms, quick=quick, tick=lambda: out.write(b"")):
        found = Found(subject=finding.subject, fact=finding.fact, remedy=finding.remedy, mendable=finding.mend is not None)
        if repair and finding.mend is not None:
            try:
                finding.mend()
            except (OSError, ValueError, LookupError) as error:
                found.error = str(error)
            else:
                found.mended = True
        out.write(msgspec.json.encode(found) + b"\n")


def findings(rooms: Rooms, *, quick: bool, tick: Tick = no_tick) -> Iterator[Finding]:
    """Everything that is wrong, at any time.  ``quick``: without reading files whole. ``tick`` is called often, and may raise."""
    for subject, check in (
        ("state.db", partial(_records, rooms.records)),
        ("snapshots", partial(rooms.snapshotter.check, quick=quick, tick=tick)),
        ("content", partial(rooms.content.check, quick=quick, tick=tick)),
        ("images", partial(lasting, rooms.images.check)),
        ("containers", partial(lasting, partial(_containers, rooms))),
        ("init", rooms.furniture.check),
        ("names", partial(lasting, partial(_names, rooms.records))),
        ("volumes", partial(lasting, rooms.volumes.check)),
        ("build cache", partial(lasting, partial(_cache, rooms))),
        ("garbage", partial(lasting, partial(_unreferenced, rooms))),
        ("unreadable records", partial(unreadable.findings, rooms)),
    ):
        try:
            yield from check()
        except BrokenPipeError:  # who asked has gone
            raise
        except OSError as error:
            yield Finding(subject=subject, fact=f"can't be checked: {error}", remedy="see why the disk can't be read")


def lasting(check: Callable[[], Iterable[Finding]], moment_s: float = 0.5) -> Iterator[Finding]:
    """What ``check`` finds, and a moment later again: else somebody was at work on it, between its record and its files."""
    found = {(finding.subject, finding.fact) for finding in check()}
    if found:
        time.sleep(moment_s)
        yield from (finding for finding in check() if (finding.subject, finding.fact) in found)


def _records(records: Records) -> Iterator[Finding]:
    for fact in records.damage():
        yield Finding(subject="state.db", fact=fact, remedy="start the daemon again: it brings back what the second copy holds")
    if not records.has_second_copy:
        yield Finding(subject="state.journal", fact="the records have no second copy", remedy="write one", mend=records.copy_again)


def _containers(rooms: Rooms) -> Iterator[Finding]:
    """Between a look at a container and what belongs to it the container may go: so whether it went is asked afterwards."""
    known = {container.id: container for container in rooms.containers.all()}
    for ident, container in known.items():
        gone = partial(_is_gone, rooms, ident)
        subject = f"container {container.name} ({ident[:12]})"
        snapshot = container.record.snapshot
        if snapshot and not any(info.name == snapshot for info in rooms.snapshotter.items()) and not gone():
            yield Finding(subject=subject, fact="its own layer is not there", remedy="remove the container")
        folder = rooms.containers.folder(ident)
        if not os.path.isdir(folder) and not gone():
            mend = partial(os.makedirs, folder, mode=0o710, exist_ok=True)
            yield Finding(subject=subject, fact=f"has no folder {folder}", remedy="make it again, empty", mend=mend)
    root = os.path.join(rooms.settings.data_root, "containers")
    doubtful = idents(rooms.records, "container")
    for name in os.listdir(root):
        if name not in known and name not in doubtful and _is_gone(rooms, name):
            mend = partial(_set_aside_folder, rooms, name)
            yield Finding(subject=f"containers/{name}", fact="belongs to no container", remedy="set it aside", mend=mend)


def _set_aside_folder(rooms: Rooms, name: str) -> None:
    if _is_gone(rooms, name):
        quarantine(rooms.settings.data_root, rooms.containers.folder(name), f"container-{name[:12]}")


def _names(records: Records) -> Iterator[Finding]:
    for kind in ("container", "network"):
        for name, ident in records.names(kind):
            if _is_dangling(records, kind, name, ident):
                mend = partial(_release, records, kind, name, ident)
                yield Finding(subject=f"{kind} name {name}", fact=f"belongs to {ident}, which is not there", remedy="free it", mend=mend)


def _is_dangling(records: Records, kind: str, name: str, ident: str) -> bool:
    with records.transaction():
        return records.resolve(kind, name) == ident and records.get(kind, ident) is None and ident not in idents(records, kind)


def _release(records: Records, kind: str, name: str, ident: str) -> None:
    with records.transaction():
        if _is_dangling(records, kind, name, ident):
            records.release(kind, name)


def _is_gone(rooms: Rooms, ident: str) -> bool:
    return all(container.id != ident for container in rooms.containers.all())


def _cache(rooms: Rooms) -> Iterator[Finding]:
    for ident, body in rooms.records.items(cache.KIND):
        subject = f"build cache {ident[:24]}"
        try:
            entry = msgspec.json.decode(body, type=cache.Entry)
        except msgspec.DecodeError as error:
            mend = partial(rooms.records.delete, cache.KIND, ident)
            yield Finding(subject=subject, fact=f"its record can't be read: {error}", remedy="drop it", mend=mend)
            continue
        if entry.kind == "layer" and not rooms.snapshotter.exists(entry.chain) and rooms.records.get(cache.KIND, ident) == body:
            mend = partial(rooms.records.delete, cache.KIND, ident)
            yield Finding(subject=subject, fact=f"names layer {entry.chain}, which is missing or damaged", remedy="drop it", mend=mend)


def _unreferenced(rooms: Rooms) -> Iterator[Finding]:
    for kind, name, size in rooms.garbage.unreferenced():
        mend = partial(_sweep, rooms)
        yield Finding(subject=f"{kind} {name}", fact=f"nothing refers to it ({size} bytes)", remedy="remove it", mend=mend)


def _sweep(rooms: Rooms) -> None:
    rooms.garbage.collect()
