"""Reports on what is inside images: files, layers, waste, differences; each a stream of records, made in a thread.

Source: the paths of ``images/inside.py``; sizes are those of regular files, hard links once, as ``docker history`` counts.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest

from wherry.images import inside, timestamp
from wherry.images.catalog import Image
from wherry.images.inside import Place, Version
from wherry.spec.docker.inside import FileEntry, ImageDifference, LayerReport, LayersReport, WastedFile
from wherry.store.contents import Contents, Item, Opener

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def files(image: Image, opener: Opener, layer: int = 0) -> Iterator[FileEntry]:
    """What a container of the image sees; or with ``layer`` what that one added, changed and deleted.  Raises OSError, ValueError."""
    with ExitStack() as stack:
        layers = _opened(stack, image, opener)
        if not layer:
            for path, version in inside.shown(layers):
                if path:
                    yield _entry(path, version.item, version.layer)
            return
        for place in inside.walk(layers[:layer]):
            change = place.change(layer) if place.path else ""
            if change == "D":
                before = place.below(layer)
                assert before is not None
                yield _entry(place.path, before.item, layer, change)
            elif change:
                own = place.of(layer)
                assert own is not None
                yield _entry(place.path, own.item, layer, change)


def layers(image: Image, opener: Opener) -> LayersReport:
    """What each layer did, and wastes.  Raises OSError, ValueError."""
    reports = [LayerReport(layer=number, diff_id=str(diff_id)) for number, diff_id in enumerate(image.diff_ids, 1)]
    for report, size, text in zip(reports, image.layer_sizes, _created_by(image), strict=True):
        report.size, report.created_by = size, text
    tally = Tally()
    with ExitStack() as stack:
        for place in inside.walk(_opened(stack, image, opener)):
            if not place.path:
                continue
            for number in {number for version in place.versions for number in (version.layer, version.hidden_by)} - {0}:
                _count(reports[number - 1], place.change(number))
            for found in tally.add(place):
                reports[found.layer - 1].wasted += found.size
    for found in tally.rest():
        reports[found.layer - 1].wasted += found.size
    return LayersReport(id=image.id, size=image.size_bytes, wasted=sum(report.wasted for report in reports), layers=reports)


def waste(image: Image, opener: Opener) -> Iterator[WastedFile]:
    """Every file that later layers hide; files with hard links come last.  Raises OSError, ValueError."""
    tally = Tally()
    with ExitStack() as stack:
        for place in inside.walk(_opened(stack, image, opener)):
            yield from tally.add(place)
    yield from tally.rest()


def differences(old: Image, new: Image, opener: Opener) -> Iterator[ImageDifference]:
    """What differs between what containers of two images see, in the order of paths; times do not count.  Raises OSError, ValueError."""
    with ExitStack() as stack:
        before, after = _View(old, _opened(stack, old, opener)), _View(new, _opened(stack, new, opener))
        left, right = before.next(), after.next()
        while left or right:
            if right is None or (left is not None and _key(left[0]) < _key(right[0])):
                assert left is not None
                yield _difference(left[0], "D", left[1].item, before=left[1].item)
                left = before.next()
            elif left is None or _key(right[0]) < _key(left[0]):
                yield _difference(right[0], "A", right[1].item, after=right[1].item)
                right = after.next()
            else:
                if differs := _differs(before, left[1], after, right[1]):
                    yield _difference(left[0], "C", right[1].item, left[1].item, right[1].item, differs)
                left, right = before.next(), after.next()


@dataclass(slots=True)
class _Linked:
    """A file with several names in its layer, until it is known whether all of them are hidden."""

    path: bytes
    size: int
    seen: int = 0
    hidden: int = 0
    by: int = 0
    change: str = ""


@dataclass(slots=True)
class Tally:
    """Finds the files that are hidden; those with several names count when all of these are.  Holds only files with names yet to come."""

    _linked: dict[tuple[int, int], _Linked] = field(default_factory=dict)

    def add(self, place: Place) -> Iterator[WastedFile]:
        for version in place.versions:
            if not stat.S_ISREG(version.item.mode) or not (version.item.size or version.item.links > 1):
                continue
            change = _how(place, version) if version.hidden_by else ""
            if version.item.links > 1:
                yield from self._link(place.path, version, change)
            elif version.hidden_by:
                yield _wasted(place.path, version.item.size, version.layer, version.hidden_by, change)

    def rest(self) -> Iterator[WastedFile]:
        """Files some of whose names are nowhere: a name replaced within its own layer."""
        for (layer, _), found in self._linked.items():
            if found.seen == found.hidden and found.size:
                yield _wasted(found.path, found.size, layer, found.by, found.change)
        self._linked.clear()

    def _link(self, path: bytes, version: Version, change: str) -> Iterator[WastedFile]:
        key = version.layer, version.item.identity
        found = self._linked.setdefault(key, _Linked(path, version.item.size))
        found.seen += 1
        if version.hidden_by:
            found.hidden += 1
            if version.hidden_by > found.by:
                found.by, found.change = version.hidden_by, change
        if found.seen == version.item.links:
            del self._linked[key]
            if found.seen == found.hidden and found.size:
                yield _wasted(found.path, found.size, version.layer, found.by, found.change)


class _View:
    """What shows of an image, path by path."""

    def __init__(self, image: Image, contents: Sequence[Contents]) -> None:
        self._image = image
        self._contents = contents
        self._paths = inside.shown(contents)

    def next(self) -> tuple[bytes, Version] | None:
        return next(self._paths, None)

    def identity(self, version: Version) -> tuple[str, int]:
        """Equal for the same inode of the same layer, whichever image it shows in."""
        return self._image.chain_ids[version.layer - 1], version.item.identity

    def of(self, version: Version) -> Contents:
        return self._contents[version.layer - 1]


def _differs(before: _View, old: Version, after: _View, new: Version) -> list[str]:
    one, other = old.item, new.item
    if before.identity(old) == after.identity(new):
        return []
    if stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
        return ["type"]
    found = []
    if one.mode != other.mode:
        found.append("mode")
    if (one.uid, one.gid) != (other.uid, other.gid):
        found.append("owner")
    if one.link != other.link:
        found.append("target")
    if one.rdev != other.rdev and (stat.S_ISCHR(one.mode) or stat.S_ISBLK(one.mode)):
        found.append("device")
    if dict(before.of(old).attributes(one)) != dict(after.of(new).attributes(other)):
        found.append("attributes")
    if stat.S_ISREG(one.mode) and (one.size != other.size or not _same(before.of(old).data(one), after.of(new).data(other))):
        found.append("content")
    return found


def _same(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Whether two files of the same size have the same bytes; both come in pieces of the same size."""
    return all(left == right for left, right in zip_longest(one, other))


def _key(path: bytes) -> list[bytes]:
    """Paths in this order come a directory before what is in it, as they are walked."""
    return path.split(b"/")


def _opened(stack: ExitStack, image: Image, opener: Opener) -> list[Contents]:
    return [stack.enter_context(opener(str(chain_id))) for chain_id in image.chain_ids]


def _count(report: LayerReport, change: str) -> None:
    report.added += change == "A"
    report.changed += change == "C"
    report.deleted += change == "D"


def _how(place: Place, version: Version) -> str:
    """Whether the layer that hides this version has something else in its place."""
    own = place.of(version.hidden_by)
    return "D" if own is None or own.item.is_whiteout else "C"


def _created_by(image: Image) -> list[str]:
    """The instruction of every layer; empty where the history does not tell."""
    texts = [entry.created_by for entry in image.config.history or () if not entry.empty_layer]
    return (texts + [""] * len(image.diff_ids))[: len(image.diff_ids)]


def _entry(path: bytes, item: Item, layer: int, change: str = "") -> FileEntry:
    text, raw = _text(path)
    return FileEntry(
        path=text,
        raw_path=raw,
        type=_type(item),
        mode=stat.S_IMODE(item.mode),
        uid=item.uid,
        gid=item.gid,
        size=item.size if stat.S_ISREG(item.mode) else 0,
        modified=_moment(item.mtime_ns),
        target=_printable(os.fsencode(item.link)),
        links=item.links,
        layer=layer,
        change=change,
    )


def _moment(since_epoch_ns: int) -> str:
    """Empty for a time that no calendar has: archives may say anything."""
    try:
        return timestamp.from_ns(since_epoch_ns)
    except (ValueError, OverflowError, OSError):
        return ""


def _wasted(path: bytes, size: int, layer: int, by: int, change: str) -> WastedFile:
    text, raw = _text(path)
    return WastedFile(path=text, raw_path=raw, size=size, layer=layer, by=by, change=change)


def _difference(
    path: bytes, change: str, item: Item, before: Item | None = None, after: Item | None = None, differs: list[str] | None = None
) -> ImageDifference:
    text, raw = _text(path)
    return ImageDifference(
        path=text,
        raw_path=raw,
        change=change,
        type=_type(item),
        size_before=before.size if before and stat.S_ISREG(before.mode) else 0,
        size=after.size if after and stat.S_ISREG(after.mode) else 0,
        differs=differs,
    )


def _type(item: Item) -> str:
    return _TYPES.get(stat.S_IFMT(item.mode), "unknown")


def _text(path: bytes) -> tuple[str, str]:
    """The path as text, and in base64 where that text does not say it exactly."""
    whole = b"/" + path
    try:
        return whole.decode(), ""
    except UnicodeDecodeError:
        return _printable(whole), base64.b64encode(whole).decode()


def _printable(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
