"""Lists of images: filters, ``docker images``, ``docker history``, sizes.

Source: Engine API 1.51 ImageList, ImageHistory, SystemDataUsage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wherry.errors import InvalidRequest, NotFound
from wherry.images import timestamp
from wherry.images.catalog import Catalog, Image
from wherry.images.removal import parse_dangling
from wherry.spec import reference as names
from wherry.spec.moment import until_ns

LIST_FILTERS = frozenset({"before", "dangling", "label", "reference", "since", "until"})
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})
Filters = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of ``docker history``, newest first.  ``id`` is ``<missing>`` where no image here is that state."""

    id: str
    created_ns: int
    created_by: str
    tags: tuple[str, ...]
    size_bytes: int
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """``layers_bytes``: every layer once. ``shared_bytes``: by image id, its layers that another image has too."""

    layers_bytes: int
    shared_bytes: dict[str, int]


def select(catalog: Catalog, filters: Filters, *, every: bool) -> list[Image]:
    """The images that ``docker images`` shows, newest first; with ``every`` also those that are only another one's base.

    With a ``reference`` filter the returned images carry only the names that match. Raises InvalidRequest, NotFound.
    """
    check(filters, LIST_FILTERS)
    dangling = parse_dangling(filters.get("dangling", ()))
    fits = _predicate(catalog, filters)
    chosen = []
    for image in catalog.all():
        if not fits(image):
            continue
        matching = _with_matching_names(image, filters.get("reference", ()))
        if matching.repo_tags or matching.repo_digests:
            if dangling is True and matching.repo_tags:
                continue
        elif filters.get("reference") or dangling is False or (not every and catalog.children(image.id)):
            continue
        chosen.append(matching)
    return sorted(chosen, key=lambda image: image.created_ns, reverse=True)


def prunable(catalog: Catalog, filters: Filters) -> list[Image]:
    """The images that ``docker image prune`` may remove if no container stands on them.  Raises InvalidRequest."""
    check(filters, PRUNE_FILTERS)
    until_ns(filters)  # of which there may be one here
    only_dangling = parse_dangling(filters.get("dangling", ())) is not False
    fits = _predicate(catalog, filters)
    return [
        image
        for image in catalog.all()
        if fits(image)
        and not (only_dangling and image.repo_tags)
        and not (not image.repo_tags and not image.repo_digests and catalog.children(image.id))
    ]


def history(catalog: Catalog, image: Image) -> list[HistoryEntry]:
    """How the image came about, newest first."""
    entries = list(image.config.history or ())
    sizes = list(image.layer_sizes)
    lines: list[HistoryEntry] = []
    layer = 0
    for entry in entries:
        size = 0
        if not entry.empty_layer and layer < len(sizes):
            size = sizes[layer]
            layer += 1
        lines.append(
            HistoryEntry(
                id="<missing>",
                created_ns=timestamp.to_ns(entry.created),
                created_by=entry.created_by,
                tags=(),
                size_bytes=size,
                comment=entry.comment,
            )
        )
    lines.reverse()
    return _with_ids(catalog, image, lines)


def usage(catalog: Catalog) -> Usage:
    """The space that layers take, each counted once."""
    images = list(catalog.all())
    shared_by = Counter(str(chain_id) for image in images for chain_id in image.chain_ids)
    sizes: dict[str, int] = {}
    shared: dict[str, int] = {}
    for image in images:
        own = dict(zip(map(str, image.chain_ids), image.layer_sizes, strict=True))
        sizes.update(own)
        shared[image.id] = sum(size for chain_id, size in own.items() if shared_by[chain_id] > 1)
    return Usage(layers_bytes=sum(sizes.values()), shared_bytes=shared)


def check(filters: Filters, allowed: frozenset[str]) -> None:
    """Refuse a filter that does not exist.  Raises InvalidRequest in Docker's words."""
    for name in filters:
        if name not in allowed:
            raise InvalidRequest(f"invalid filter '{name}'" if name else "invalid filter")


def has_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether every ``name`` or ``name=value`` holds."""
    for text in wanted:
        name, equals, value = text.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    return True


def matches_name(pattern: str, text: str) -> bool:
    """Whether the reference ``text`` fits ``pattern`` whole or by its repository, as Go's path.Match: ``*`` stops at a slash."""
    reference = names.parse(text)
    compiled = _glob(pattern)
    return bool(compiled.fullmatch(reference.familiar) or compiled.fullmatch(reference.familiar_name))


def _predicate(catalog: Catalog, filters: Filters) -> Callable[[Image], bool]:
    older = [_moment(catalog, text) for text in filters.get("before", ())]
    newer = [_moment(catalog, text) for text in filters.get("since", ())]
    until = min((moment for text in filters.get("until", ()) if (moment := until_ns({"until": (text,)})) is not None), default=None)
    labels, without = filters.get("label", ()), filters.get("label!", ())

    def fits(image: Image) -> bool:
        created = image.created_ns
        return (
            all(created < moment for moment in older)
            and all(created > moment for moment in newer)
            and (until is None or created <= until)
            and has_labels(image.labels, labels)
            and not (without and has_labels(image.labels, without))
        )

    return fits


def _moment(catalog: Catalog, text: str) -> int:
    try:
        image = catalog.find(text)
        if image is None:
            raise NotFound(f"No such image: {names.parse(text).with_default_tag().familiar}")
    except names.InvalidReference as error:
        raise InvalidRequest(str(error)) from error
    return image.created_ns


def _with_matching_names(image: Image, patterns: Sequence[str]) -> Image:
    if not patterns:
        return image
    return replace(
        image,
        repo_tags=tuple(name for name in image.repo_tags if any(matches_name(pattern, name) for pattern in patterns)),
        repo_digests=tuple(name for name in image.repo_digests if any(matches_name(pattern, name) for pattern in patterns)),
    )


def _with_ids(catalog: Catalog, image: Image, lines: list[HistoryEntry]) -> list[HistoryEntry]:
    """The image's own id on the newest line, its parents' ids on the lines where their history ends."""
    known: dict[int, Image] = {}
    current: Image | None = image
    while current is not None:
        known.setdefault(len(current.config.history or ()), current)
        current = catalog.get(current.parent) if current.parent and catalog.has(current.parent) else None
    shown = []
    for position, line in enumerate(lines):
        owner = known.get(len(lines) - position)
        shown.append(line if owner is None else replace(line, id=owner.id, tags=owner.repo_tags))
    return shown


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression.  Raises InvalidRequest for a broken one."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            if not out or out[-1] != "[^/]*":
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                raise InvalidRequest("syntax error in pattern")
            body = pattern[position:end]
            negated = body.startswith("^")
            out.append("[" + ("^" if negated else "") + body[negated:].replace("\\", "\\\\").replace("[", "\\[") + "]")
            position = end + 1
        elif char == "\\" and position < len(pattern):
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out))
    except re.error as error:
        raise InvalidRequest("syntax error in pattern") from error
