"""Named and anonymous volumes of the ``local`` driver: ``<data_root>/volumes/<name>/_data``.

Bodies of Records kind ``volume``, and Docker's words for what goes wrong (Engine API 1.51, Volume*).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec

from wherry.errors import Conflict, Internal, InvalidRequest, NotFound, NotSupported
from wherry.ids import new_id
from wherry.store import unreadable
from wherry.store.content import sync_directory
from wherry.store.records import Records
from wherry.store.soundness import Finding, quarantine
from wherry.tree.measure import tree_bytes
from wherry.tree.remove import remove

log = logging.getLogger(__name__)
ANONYMOUS: Final = "com.docker.volume.anonymous"
_KIND: Final = "volume"
_DATA: Final = "_data"
_LEAVING: Final = ".leaving"  # no volume's name begins so: where directories are while they are removed
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LIST_FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS: Final = frozenset({"all", "label", "label!"})
_OPTIONS: Final = frozenset({"type", "o", "device", "size"})
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})
_GO_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_GO_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})

InUse = Callable[[str], Sequence[str]]
"""The ids of the containers that use the volume of this name."""
Filters = Mapping[str, Sequence[str]]


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    created_at: str
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What the API tells of a volume; ``labels`` and ``options`` None when none were given."""

    name: str
    mountpoint: str
    created_at: str
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    driver: str = "local"
    scope: str = "local"

    @property
    def source(self) -> str:
        """The directory to bind into a container: the mountpoint, or with the option ``o=bind`` the ``device``."""
        return (self.options or {}).get("device") or self.mountpoint

    @property
    def is_anonymous(self) -> bool:
        return ANONYMOUS in (self.labels or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    deleted: list[str]
    reclaimed_bytes: int


class Volumes:
    """The volumes of one daemon.  All calls block, for as long as the file system takes to remove a tree.

    A volume exists when its row does: the directory is made before, and goes out of the way with it, to be removed after. So a directory
    with data in its place and without a row has lost it, and becomes a volume again, as Docker takes every directory for one.
    """

    def __init__(self, records: Records, root: str) -> None:
        """``root``: where the volumes' directories go, ``<data_root>/volumes``."""
        self._records = records
        self._root = root
        self._decoder = msgspec.json.Decoder(_Body)
        self._leaving = os.path.join(root, _LEAVING)
        os.makedirs(root, mode=0o700, exist_ok=True)
        os.makedirs(self._leaving, mode=0o700, exist_ok=True)

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one of that name; without a name an anonymous one.

        Of the local driver's options ``o=bind`` with a ``device`` is supported.
        Raises InvalidRequest, NotFound (the driver), NotSupported.
        """
        if not name:
            name, labels = new_id(), {**(labels or {}), ANONYMOUS: ""}
        if driver not in ("", "local"):
            raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
        if len(name) < 2:
            raise InvalidRequest(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
        if not _NAME.fullmatch(name) or len(name) > 255:
            raise InvalidRequest(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
                "allowed. If you intended to pass a host directory, use absolute path"
            )
        _check_options(name, options or {})
        body = _Body(
            created_at=datetime.now(UTC).strftime(_TIME),
            labels=None if labels is None else dict(labels),
            options=dict(options) if options else None,
        )
        with self._records.transaction():
            existing = self._find(name)
            if existing is None:
                self._make_directory(name)
                self._records.put(_KIND, name, msgspec.json.encode(body))
                return self._volume(name, body)
        return existing

    def get(self, name: str) -> Volume:
        """Raises NotFound."""
        volume = self._find(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    def path(self, name: str) -> str:
        """The directory with the volume's content.  Raises NotFound."""
        return self.get(name).source

    def list(self, filters: Filters | None = None, in_use: InUse | None = None) -> list[Volume]:
        """In order of name.  ``in_use`` decides the filter ``dangling``.  Raises InvalidRequest for an unknown filter."""
        filters = filters or {}
        _check_filters(filters, _LIST_FILTERS)
        dangling = _truth(filters, "dangling")
        volumes = [self._volume(name, self._decoder.decode(body)) for name, body in self._records.items(_KIND)]
        return [
            volume
            for volume in volumes
            if _matches(volume, filters) and (dangling is None or dangling != bool(in_use is not None and in_use(volume.name)))
        ]

    def remove(self, name: str, *, force: bool = False, in_use: InUse) -> None:
        """Remove a volume and its content.  Raises NotFound (with ``force`` absent is success), Conflict while containers use it."""
        with self._records.transaction():
            if self._find(name) is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            users = in_use(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            body = self._records.get(_KIND, name) or b""
            left = self._move_away(name)
            try:
                self._records.delete(_KIND, name)
            except BaseException:
                self._move_back(name, left)
                raise
        try:
            self._discard(left)
        except OSError as error:
            self._put_back(name, left, body)
            raise Internal(f"remove {name}: {error}") from error

    def prune(self, filters: Filters | None = None, *, in_use: InUse) -> Pruned:
        """Remove the anonymous volumes that no container uses, with the filter ``all`` the named ones too."""
        deleted: list[str] = []
        reclaimed = 0
        for volume in self.prunable(filters, in_use=in_use):
            size = self.usage(volume.name)
            try:
                self.remove(volume.name, in_use=in_use)
            except (NotFound, Conflict):
                continue  # removed or taken meanwhile
            deleted.append(volume.name)
            reclaimed += size
        return Pruned(deleted=deleted, reclaimed_bytes=reclaimed)

    def prunable(self, filters: Filters | None = None, *, in_use: InUse) -> Sequence[Volume]:
        """What `prune` removes."""
        filters = filters or {}
        _check_filters(filters, _PRUNE_FILTERS)
        every = _every(filters)
        return [
            volume for volume in self.list() if (every or volume.is_anonymous) and _matches(volume, filters) and not in_use(volume.name)
        ]

    def usage(self, name: str) -> int:
        """Bytes of the volume's files, each once.  Raises NotFound."""
        fd = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return tree_bytes(fd)
        finally:
            os.close(fd)

    def sweep(self) -> None:
        """At start: end what was being removed, take up directories that have lost their row, make again those a power cut took."""
        self._end_removals()
        known = {name for name, _ in self._records.items(_KIND)}
        kept = known | unreadable.idents(self._records, _KIND)
        for name in sorted(set(os.listdir(self._root)) - kept - {_LEAVING}):
            if self._is_empty(name):
                self._remove_directory(name)  # its creation was not finished
            elif self._can_be_adopted(name):
                log.warning("volumes/%s has data and belongs to no volume: it is one again", name)
                self._adopt(name)
            else:
                log.warning("volumes/%s belongs to no volume and is left alone", name)
        for name in known:
            self._make_directory(name)

    def check(self) -> Iterator[Finding]:
        """Volumes whose directory is gone, and directories of no volume: those are kept, for they hold somebody's data."""
        root = set(os.listdir(self._root)) - {_LEAVING}
        known = {name for name, _ in self._records.items(_KIND)}
        for name in sorted(known):
            if not os.path.isdir(path := os.path.join(self._root, name, _DATA)) and self._find(name) is not None:
                mend = partial(self._make_directory, name)
                yield Finding(subject=f"volume {name}", fact=f"has no directory {path}", remedy="make it again, empty", mend=mend)
        for name in sorted(root - known - unreadable.idents(self._records, _KIND)):
            if self._is_stray(name):
                adopted = self._can_be_adopted(name)
                mend = partial(self._adopt if adopted else self._set_aside, name)
                remedy = "make it a volume again" if adopted else "set it aside"
                yield Finding(subject=f"volumes/{name}", fact="belongs to no volume", remedy=remedy, mend=mend)

    def _is_stray(self, name: str) -> bool:
        with self._records.transaction():
            return self._find(name) is None and os.path.exists(os.path.join(self._root, name))

    def _can_be_adopted(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and os.path.isdir(self._path(name)) and not os.path.islink(self._path(name))

    def _adopt(self, name: str) -> None:
        """What its options and labels were is not known any more."""
        with self._records.transaction():
            if self._is_stray(name):
                made = datetime.fromtimestamp(os.stat(self._path(name)).st_mtime, UTC)
                body = _Body(created_at=made.strftime(_TIME))
                self._records.put(_KIND, name, msgspec.json.encode(body))

    def _set_aside(self, name: str) -> None:
        with self._records.transaction():
            if self._is_stray(name):
                quarantine(os.path.dirname(self._root), os.path.join(self._root, name), f"volume-{name}")

    def _find(self, name: str) -> Volume | None:
        body = self._records.get(_KIND, name)
        return None if body is None else self._volume(name, self._decoder.decode(body))

    def _volume(self, name: str, body: _Body) -> Volume:
        return Volume(
            name=name,
            mountpoint=self._path(name),
            created_at=body.created_at,
            labels=body.labels,
            options=body.options,
        )

    def _make_directory(self, name: str) -> None:
        directory = os.path.join(self._root, name)
        data = self._path(name)
        if os.path.isdir(data):
            return
        try:
            os.makedirs(data, mode=0o700, exist_ok=True)
            os.chmod(directory, 0o700)
            os.chmod(data, 0o755)
            sync_directory(directory)
            sync_directory(self._root)
        except OSError as error:
            raise Internal(f"create {name}: {error}") from error

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name, _DATA)

    def _is_empty(self, name: str) -> bool:
        """Whether there is nothing but directories that `_make_directory` made."""
        try:
            found = os.listdir(os.path.join(self._root, name))
            return not found or (found == [_DATA] and not os.listdir(self._path(name)))
        except NotADirectoryError:
            return False

    def _move_away(self, name: str) -> str:
        """A volume's directory to where nobody looks for it and a new one of that name is not in its way: there.

        No directory is made for that: a full disk has no room for one.
        """
        left = os.path.join(self._leaving, f"{_mark(name)}.{secrets.token_hex(4)}")
        try:
            with suppress(FileNotFoundError):
                os.rename(os.path.join(self._root, name), left)
        except OSError as error:
            raise Internal(f"remove {name}: {error}") from error
        return left

    def _move_back(self, name: str, left: str) -> None:
        with suppress(FileNotFoundError):
            os.rename(left, os.path.join(self._root, name))

    def _put_back(self, name: str, left: str, body: bytes) -> None:
        """A volume that can't be removed stays one, unless there is a new one of that name."""
        with self._records.transaction():
            if self._find(name) is None:
                self._move_back(name, left)
                self._records.put(_KIND, name, body)

    def _end_removals(self) -> None:
        """Of those whose row is still there nothing was removed yet."""
        lost = {_mark(name): name for name, _ in self._records.items(_KIND) if not os.path.exists(os.path.join(self._root, name))}
        for token in os.listdir(self._leaving):
            left = os.path.join(self._leaving, token)
            name = lost.pop(token.partition(".")[0], None)
            if name is not None:
                self._move_back(name, left)
                continue
            try:
                self._discard(left)
            except OSError as error:
                log.warning("a removed volume is still on the disk: %s", error)

    def _remove_directory(self, name: str) -> None:
        try:
            self._discard(os.path.join(self._root, name))
        except OSError as error:
            raise Internal(f"remove {name}: {error}") from error

    def _discard(self, path: str) -> None:
        fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove(fd, os.path.basename(path))
        finally:
            os.close(fd)


def _mark(name: str) -> str:
    """What tells whose directory one was, in few letters: a name may be as long as a file's."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def check_row(name: str, body: bytes) -> None:
    """Raises ValueError or msgspec.DecodeError for a row that is no volume's."""
    if not _NAME.fullmatch(name):
        raise ValueError("its name is that of no volume")
    msgspec.json.decode(body, type=_Body)


def _check_options(name: str, options: Mapping[str, str]) -> None:
    for key in options:
        if key not in _OPTIONS:
            raise InvalidRequest(f'create {name}: invalid option: "{key}"')
    if not options:
        return
    if "size" in options:
        raise NotSupported(f"create {name}: quota size requested but no quota support")
    device = options.get("device", "")
    if not device:
        raise InvalidRequest(f'create {name}: missing required option: "device"')
    words = [word for word in options.get("o", "").split(",") if word]
    if options.get("type", "none") not in ("", "none", "bind") or not {"bind", "rbind"} & set(words) or len(words) != 1:
        given = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
        raise NotSupported(f"create {name}: volume options {given} are not supported: only type=none, o=bind with a device are")
    if not device.startswith("/"):
        raise InvalidRequest(f"create {name}: device {device!r} is not an absolute path")


def _check_filters(filters: Filters, known: frozenset[str]) -> None:
    for key in filters:
        if key not in known:
            raise InvalidRequest(f"invalid filter '{key}'")


def _truth(filters: Filters, key: str) -> bool | None:
    values = [value.lower() for value in filters.get(key, ())]
    if not values:
        return None
    if len(values) == 1 and values[0] in _TRUE | _FALSE:
        return values[0] in _TRUE
    raise InvalidRequest(f"invalid filter '{key}=[{' '.join(filters[key])}]'")


def _every(filters: Filters) -> bool:
    """The filter ``all``, in Docker's own words for it."""
    values = filters.get("all", ())
    if len(values) > 1:
        raise InvalidRequest(f"invalid filter 'all=[{' '.join(values)}]': only one value is expected")
    if values and values[0] not in _GO_TRUE | _GO_FALSE:
        raise InvalidRequest(f"invalid filter 'all': strconv.ParseBool: parsing \"{values[0]}\": invalid syntax")
    return bool(values) and values[0] in _GO_TRUE


def _matches(volume: Volume, filters: Filters) -> bool:
    """One value of a key is enough, but of ``label`` all must hold."""
    labels = volume.labels or {}
    names, drivers = filters.get("name", ()), filters.get("driver", ())
    return (
        (not names or any(_name_matches(name, volume.name) for name in names))
        and (not drivers or volume.driver in drivers)
        and all(_has_label(labels, wanted) for wanted in filters.get("label", ()))
        and not any(_has_label(labels, unwanted) for unwanted in filters.get("label!", ()))
    )


def _name_matches(pattern: str, name: str) -> bool:
    try:
        return pattern == name or re.search(pattern, name) is not None
    except re.error:
        return False


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
