"""Which rows the rooms can read, and what a repair makes of one that none can: `store/unreadable.py` puts those out of the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec

from wherry.build import cache
from wherry.containers.record import ContainerRecord
from wherry.engine.rooms import Rooms
from wherry.images import catalog
from wherry.images.layers import Blob
from wherry.networks.record import NetworkRecord
from wherry.spec import reference
from wherry.spec.digest import Digest, chain_ids
from wherry.spec.image import CONFIG_LIMIT, decode_config
from wherry.store import unreadable
from wherry.store.records import Records
from wherry.store.snapshot import Row, Snapshotter
from wherry.store.soundness import Finding, quarantine
from wherry.volumes.service import check_row

_HOLDING = frozenset({"container", "image", "blob", "layer", unreadable.ANY})  # what they name would be garbage
_LAYER = "container-"  # what the key of a container's own layer begins with
_NAMES = {"image": ("tag", "digest")}  # the kinds of names that lead to a kind of rows; else of the same kind


def _container(ident: str, body: bytes) -> None:
    if msgspec.json.decode(body, type=ContainerRecord).id != ident:
        raise ValueError("it is that of another container")


def _image(ident: str, body: bytes) -> None:
    Digest(ident)
    for diff_id in msgspec.json.decode(body, type=catalog.Row).diff_ids:
        Digest(diff_id)


def _network(ident: str, body: bytes) -> None:
    record = msgspec.json.decode(body, type=NetworkRecord)
    if record.id != ident:
        raise ValueError("it is that of another network")
    if record.is_bridge:
        record.pool()


def _decodes(kind: Any) -> Callable[[str, bytes], object]:
    decode = msgspec.json.Decoder(kind).decode
    return lambda _, body: decode(body)


CHECKS: unreadable.Checks = {
    "container": _container,
    "image": _image,
    "network": _network,
    "volume": check_row,
    "layer": _decodes(Row),
    "blob": _decodes(Blob),
    cache.KIND: _decodes(cache.Entry),
    cache.PLACES: _decodes(dict[str, Any]),
}


def holds_garbage(records: Records) -> bool:
    """Whether something may only look like garbage, because the record that names it can't be read."""
    return any(kind in _HOLDING for kind, _ in unreadable.unreadable(records))


def layers_kept(records: Records, snapshotter: Snapshotter, *, building: bool) -> set[str]:
    """Those that stay though no image is made of them: while a build goes on all, for any may be what it stands on."""
    every = {info.name for info in snapshotter.items()} if building or holds_garbage(records) else set()
    return cache.layers(records) | every


def findings(rooms: Rooms) -> Iterator[Finding]:
    """To be asked last: what is given up must have been looked at before."""
    for kind, ident in unreadable.unreadable(rooms.records):
        if kind == unreadable.ANY:
            fact = "come from their second copy, which may have ended early: what they do not tell of is kept"
            remedy = "make images again whose config and layers are here, and give the rest up"
            yield Finding(subject="records", fact=fact, remedy=remedy, mend=partial(_trust, rooms))
            continue
        remedy, mend = _mend(rooms, kind, ident)
        yield Finding(subject=f"{kind} {ident}", fact="its record can't be read: it was set aside", remedy=remedy, mend=mend)


def _mend(rooms: Rooms, kind: str, ident: str) -> tuple[str, Callable[[], object]]:
    give_up = partial(_give_up, rooms, kind, ident)
    if rooms.records.get(kind, ident) is not None:
        return "forget the old one: it is here again", partial(_forget, rooms, kind, ident)
    if kind == "volume":
        return "make it a plain volume again, with all its data, without labels and options", partial(_plain_volume, rooms, ident)
    if kind == "image" and _can_restore(rooms, ident):
        return "make the record again from its config and layers", partial(_restore_image, rooms, ident)
    if kind == "container":
        return "give it up: its own layer and its folder are kept in quarantine", give_up
    return "give it up: the record is kept in quarantine", give_up


def _trust(rooms: Rooms) -> None:
    """Folders and layers without a row have been set aside by now."""
    for digest in list(rooms.content.digests()):
        if not rooms.images.catalog.has(str(digest)) and _can_restore(rooms, digest):
            rooms.images.register(rooms.content.read(digest, CONFIG_LIMIT))
    for info in rooms.snapshotter.items():
        ident = info.name.removeprefix(_LAYER)
        if info.active and ident != info.name and rooms.records.get("container", ident) is None:
            _set_aside_layer(rooms, ident)
    _forget(rooms, unreadable.ANY, "")


def _plain_volume(rooms: Rooms, name: str) -> None:
    rooms.volumes.create(name)
    _forget(rooms, "volume", name)


def _can_restore(rooms: Rooms, ident: str) -> bool:
    try:
        config = decode_config(rooms.content.read(Digest(ident), CONFIG_LIMIT))
    except (OSError, ValueError):
        return False
    return all(map(rooms.snapshotter.exists, chain_ids(config.rootfs.diff_ids)))


def _restore_image(rooms: Rooms, ident: str) -> None:
    rooms.images.register(rooms.content.read(Digest(ident), CONFIG_LIMIT))
    for kind in _NAMES["image"]:
        for name, holder in rooms.records.names(kind):
            if holder == ident:
                rooms.images.catalog.name(reference.parse(name), ident)
    _forget(rooms, "image", ident)


def _give_up(rooms: Rooms, kind: str, ident: str) -> None:
    if kind == "container":
        quarantine(rooms.settings.data_root, rooms.containers.folder(ident), f"container-{ident[:12]}")
        if any(info.name == f"{_LAYER}{ident}" for info in rooms.snapshotter.items()):
            _set_aside_layer(rooms, ident)
    with rooms.records.transaction():
        for names in _NAMES.get(kind, (kind,)):
            for name, holder in rooms.records.names(names):
                if holder == ident:
                    rooms.records.release(names, name)
        unreadable.forget(rooms.records, kind, ident)
    rooms.garbage.collect()


def _set_aside_layer(rooms: Rooms, ident: str) -> None:
    """What a container that is not there any more had written."""
    key = f"{_LAYER}{ident}"
    quarantine(rooms.settings.data_root, rooms.snapshotter.rootfs(key).upper or "", f"container-{ident[:12]}-layer")
    rooms.snapshotter.remove(key)


def _forget(rooms: Rooms, kind: str, ident: str) -> None:
    unreadable.forget(rooms.records, kind, ident)
    rooms.garbage.collect()
