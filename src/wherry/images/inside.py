"""What the layers of an image do to each other, path by path: which version of a file shows, which are hidden, and by which layer.

All layers are walked side by side in the order of their names, so the cost in memory is that of the directories on the way to one path.
Layers are numbered from 1, the base.  Source: OCI image-spec 1.1, layer.md (whiteouts, opaque directories).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wherry.store.contents import Contents, Item


@dataclass(slots=True)
class Version:
    """What one layer has at a path.

    ``hidden_by``: the first layer above that hides it, 0 for none. ``is_listed``: whether that layer changed or deleted this very path,
    and not a directory further up. ``emptied_by``: of a directory that is merged with others, the first layer above where it is opaque.
    """

    layer: int
    item: Item
    hidden_by: int = 0
    is_listed: bool = True
    emptied_by: int = 0


@dataclass(slots=True)
class Place:
    """One path, without a leading slash, and every layer's version of it, base first; the root is ``b""``."""

    path: bytes
    versions: list[Version]

    @property
    def shown(self) -> Version | None:
        """What a container of the image sees."""
        last = self.versions[-1]
        return None if last.hidden_by or last.item.is_whiteout else last

    def below(self, layer: int) -> Version | None:
        """What showed here before ``layer``."""
        for version in reversed(self.versions):
            if version.layer < layer and not version.item.is_whiteout and (not version.hidden_by or version.hidden_by >= layer):
                return version
        return None

    def of(self, layer: int) -> Version | None:
        return next((version for version in self.versions if version.layer == layer), None)

    def change(self, layer: int) -> str:
        """What ``layer`` did to this path: ``A``, ``C``, ``D``, or nothing at all (empty)."""
        own, before = self.of(layer), self.below(layer)
        if own is None or own.item.is_whiteout:
            return "D" if before is not None and before.hidden_by == layer and before.is_listed else ""
        return "A" if before is None else "C"


def walk(layers: Sequence[Contents]) -> Iterator[Place]:
    """Every path of every layer (base first): a directory before what is in it, names in the order of their bytes."""
    root = Place(b"", [Version(number, contents.root()) for number, contents in enumerate(layers, 1)])
    _settle(root.versions)
    yield root
    pending = [_children(layers, root)]
    while pending:
        place = next(pending[-1], None)
        if place is None:
            pending.pop()
            continue
        yield place
        if any(version.item.is_directory for version in place.versions):
            pending.append(_children(layers, place))


def shown(layers: Sequence[Contents]) -> Iterator[tuple[bytes, Version]]:
    """What a container sees, the root too; hidden directories are not looked into."""
    for place in walk(layers):
        if (version := place.shown) is not None:
            yield place.path, version


def _children(layers: Sequence[Contents], place: Place) -> Iterator[Place]:
    sources = [_of_layer(layers, version) for version in place.versions if version.item.is_directory]
    prefix = place.path + b"/" if place.path else b""
    name, versions = b"", list[Version]()
    for child, _, version in heapq.merge(*sources, key=_order):
        if child != name and versions:
            _settle(versions)
            yield Place(prefix + name, versions)
            versions = []
        name = child
        versions.append(version)
    if versions:
        _settle(versions)
        yield Place(prefix + name, versions)


def _of_layer(layers: Sequence[Contents], directory: Version) -> Iterator[tuple[bytes, int, Version]]:
    """The names in one layer's directory, hidden by whoever hides or empties that."""
    hider, emptier = directory.hidden_by, directory.emptied_by
    is_emptied = 0 < emptier and not 0 < hider < emptier
    hidden_by = emptier if is_emptied else hider
    for name, item in layers[directory.layer - 1].children(directory.item):
        yield name, directory.layer, Version(directory.layer, item, hidden_by, is_listed=is_emptied)


def _order(found: tuple[bytes, int, Version]) -> tuple[bytes, int]:
    return found[0], found[1]


def _settle(versions: list[Version]) -> None:
    """Find out which of the versions of one path, base first, hides which."""
    for position, version in enumerate(versions):
        for above in versions[position + 1 :]:
            if version.hidden_by and above.layer >= version.hidden_by:
                break
            if above.item.is_directory and version.item.is_directory:
                if above.item.is_opaque and not version.emptied_by:
                    version.emptied_by = above.layer
                continue
            version.hidden_by, version.is_listed = above.layer, True
            break
