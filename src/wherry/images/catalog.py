"""Which images exist and what they are called: the rows of ``image``, ``tag`` and ``digest``, and an index of them in memory.

Only this module writes those rows. An image exists when its row is committed; its config is in content before that.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from wherry.errors import Internal, NotFound
from wherry.images import timestamp
from wherry.spec import image as spec
from wherry.spec import reference as names
from wherry.spec.digest import Digest, chain_ids, is_digest
from wherry.spec.reference import Reference
from wherry.store.content import Content
from wherry.store.records import Records

log = logging.getLogger(__name__)
_IMAGE, _TAG, _DIGEST = "image", "tag", "digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image as it is now.  ``id``: digest of ``raw``, its config's bytes; layers base first; names familiar and sorted.

    ``size_bytes``: the regular files of all layers together, as Docker counts; ``layer_sizes`` the same for each layer.
    """

    id: str
    raw: bytes
    config: spec.ImageConfig
    diff_ids: tuple[Digest, ...]
    chain_ids: tuple[Digest, ...]
    layer_sizes: tuple[int, ...]
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    parent: str = ""
    tagged_at_ns: int = 0
    damage: str = ""  # why its config can't be read; then ``config`` tells nothing but the layers

    @property
    def size_bytes(self) -> int:
        return sum(self.layer_sizes)

    @property
    def created(self) -> str:
        """As the config says, or the zero time."""
        return self.config.created or timestamp.ZERO

    @property
    def created_ns(self) -> int:
        return timestamp.to_ns(self.config.created)

    @property
    def top(self) -> Digest | None:
        """The snapshot a container of this image stands on; None for an image without layers."""
        return self.chain_ids[-1] if self.chain_ids else None

    @property
    def labels(self) -> dict[str, str]:
        return self.config.settings.labels or {}


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an ``image`` record."""

    layer_sizes: tuple[int, ...]
    diff_ids: tuple[str, ...] = ()  # as in its config: layers are not lost with it
    parent: str = ""
    tagged_at_ns: int = 0


class Catalog:
    """Usable from any thread.  A change is durable when its method returns."""

    def __init__(self, records: Records, content: Content) -> None:
        self._records = records
        self._content = content
        self._lock = threading.RLock()
        self._rows: dict[str, Row] = {}
        self._ids: list[str] = []
        self._configs: dict[str, tuple[bytes, spec.ImageConfig, tuple[Digest, ...]]] = {}
        self._damage: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._by_image: dict[str, set[str]] = {}
        self._children: dict[str, set[str]] = {}
        for ident, body in records.items(_IMAGE):
            self._index(ident, msgspec.json.decode(body, type=Row))
        for kind in (_TAG, _DIGEST):
            for name, ident in records.names(kind):
                if ident in self._rows:
                    self._names[name] = ident
                    self._by_image[ident].add(name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several changes at once, seen by others together."""
        with self._lock, self._records.transaction():
            yield

    def has(self, ident: str) -> bool:
        return ident in self._rows

    def ids(self) -> list[str]:
        with self._lock:
            return list(self._ids)

    def all(self) -> Iterator[Image]:
        """Every image, but those that go before it is their turn."""
        for ident in self.ids():
            try:
                image = self.get(ident)
            except NotFound:
                continue
            yield image

    def get(self, ident: str) -> Image:
        """The image ``ident``, also one whose config is damaged.  Raises NotFound."""
        with self._lock:
            row = self._rows.get(ident)
            if row is None:
                raise NotFound(f"No such image: {ident}")
            raw, config, chain = self._config(ident)
            references = self.references(ident)
            return Image(
                id=ident,
                raw=raw,
                config=config,
                diff_ids=tuple(config.rootfs.diff_ids),
                chain_ids=chain,
                layer_sizes=row.layer_sizes,
                repo_tags=tuple(sorted(item.familiar for item in references if item.digest is None)),
                repo_digests=tuple(sorted(item.familiar for item in references if item.digest is not None)),
                parent=row.parent if row.parent in self._rows else "",
                tagged_at_ns=row.tagged_at_ns,
                damage=self._damage.get(ident, ""),
            )

    def whole(self, ident: str) -> Image:
        """As ``get``, for who hands the image on.  Raises Internal for one whose config is damaged."""
        image = self.get(ident)
        if image.damage:
            raise Internal(image.damage)
        return image

    def find(self, text: str) -> Image | None:
        """The image called ``text``: a name, a full id, or a unique prefix of one.  Raises InvalidReference."""
        with self._lock:
            full = text if text.startswith("sha256:") else f"sha256:{text}"
            if is_digest(full):
                return self.get(full) if full in self._rows else None
            ident = self._names.get(_stored(names.parse(text)))
            if ident is None:
                matching = self.with_prefix(text)
                ident = matching[0] if len(matching) == 1 else None
            return None if ident is None else self.get(ident)

    def named(self, reference: Reference) -> str | None:
        """The id of the image that has exactly this name."""
        return self._names.get(_stored(reference))

    def tags_of(self, reference: Reference) -> list[Reference]:
        """Every tag of the repository that ``reference`` is in."""
        with self._lock:
            return [names.parse(name) for name in sorted(self._names) if name.startswith(reference.name + ":") and "@" not in name]

    def with_prefix(self, text: str) -> list[str]:
        """All ids that start with ``text``, with or without ``sha256:``."""
        prefix = text if text.startswith("sha256:") else f"sha256:{text}"
        with self._lock:
            start = bisect_left(self._ids, prefix)
            end = start
            while end < len(self._ids) and self._ids[end].startswith(prefix):
                end += 1
            return self._ids[start:end]

    def references(self, ident: str) -> list[Reference]:
        """Every name of the image, sorted as stored."""
        with self._lock:
            return [names.parse(name) for name in sorted(self._by_image.get(ident, ()))]

    def children(self, ident: str) -> set[str]:
        """The images made on top of this one by commit."""
        with self._lock:
            return set(self._children.get(ident, ()))

    def layer_users(self) -> dict[Digest, int]:
        """How many images hold each chain id."""
        users: dict[Digest, int] = {}
        with self._lock:
            for ident in self._ids:
                for chain in self._config(ident)[2]:
                    users[chain] = users.get(chain, 0) + 1
        return users

    def diff_id_users(self) -> set[Digest]:
        """The diff_ids that any image has."""
        with self._lock:
            return {diff_id for ident in self._ids for diff_id in self._config(ident)[1].rootfs.diff_ids}

    def put(
        self, raw: bytes, layer_sizes: Sequence[int], *, parent: str = "", references: Iterable[Reference] = (), by_hand: bool = False
    ) -> str:
        """Make the image exist, or give the one that exists these names; its config and layers must be stored already."""
        config = spec.decode_config(raw)
        ident = str(self._content.put(raw))
        with self.transaction():
            known = self._rows.get(ident)
            row = Row(
                layer_sizes=tuple(layer_sizes),
                diff_ids=tuple(map(str, config.rootfs.diff_ids)),
                parent=str(parent) or (known.parent if known else ""),
                tagged_at_ns=known.tagged_at_ns if known else 0,
            )
            self._damage.pop(ident, None)
            if not self._content.has(Digest(ident)):  # somebody removed the same image meanwhile
                self._content.put(raw)
            self._records.put(_IMAGE, ident, msgspec.json.encode(row))
            self._configs[ident] = (raw, config, tuple(chain_ids(config.rootfs.diff_ids)))
            self._index(ident, row)
            for item in references:
                self.name(item, ident, by_hand=by_hand)
        return ident

    def name(self, reference: Reference, ident: str, *, by_hand: bool = False) -> str | None:
        """Give the image a name, taking it from another one, whose id is returned.  ``by_hand``: that is the image's last tag time."""
        stored = _stored(reference)
        with self.transaction():
            if ident not in self._rows:
                raise NotFound(f"No such image: {ident}")
            former = self._records.name(_kind(stored), stored, ident)
            if former is not None and former in self._by_image:
                self._by_image[former].discard(stored)
            self._names[stored] = ident
            self._by_image[ident].add(stored)
            if by_hand:
                row = msgspec.structs.replace(self._rows[ident], tagged_at_ns=time.time_ns())
                self._rows[ident] = row
                self._records.put(_IMAGE, ident, msgspec.json.encode(row))
        return None if former == ident else former

    def unname(self, reference: Reference) -> None:
        """Take a name away; an absent one is success."""
        stored = _stored(reference)
        with self.transaction():
            self._records.release(_kind(stored), stored)
            ident = self._names.pop(stored, None)
            if ident is not None:
                self._by_image[ident].discard(stored)

    def drop_config(self, ident: str) -> None:
        """Delete the config's blob of an image that is gone, unless it has come back meanwhile."""
        with self.transaction():
            if not self.has(ident):
                self._content.delete(Digest(ident))

    def delete(self, ident: str) -> None:
        """Forget the image and its names; its layers are the caller's to remove, and then its config (`drop_config`)."""
        with self.transaction():
            for item in self.references(ident):
                self.unname(item)
            self._records.delete(_IMAGE, ident)
            row = self._rows.pop(ident, None)
            if row is None:
                return
            self._ids.pop(bisect_left(self._ids, ident))
            self._configs.pop(ident, None)
            self._damage.pop(ident, None)
            self._by_image.pop(ident, None)
            if row.parent:
                self._children.get(row.parent, set()).discard(ident)

    def _index(self, ident: str, row: Row) -> None:
        if ident not in self._rows:
            insort(self._ids, ident)
        self._rows[ident] = row
        self._by_image.setdefault(ident, set())
        if row.parent:
            self._children.setdefault(row.parent, set()).add(ident)

    def _config(self, ident: str) -> tuple[bytes, spec.ImageConfig, tuple[Digest, ...]]:
        known = self._configs.get(ident)
        if known is None:
            try:
                raw = self._content.read(Digest(ident), spec.CONFIG_LIMIT)
                config = spec.decode_config(raw)
            except (OSError, ValueError) as error:
                self._damage[ident] = f"image {ident}: its config can't be read: {error}"
                log.error("%s", self._damage[ident])
                raw, config = b"{}", spec.ImageConfig(architecture="", os="", rootfs=spec.RootFS(diff_ids=_digests(self._rows[ident])))
            known = (raw, config, tuple(chain_ids(config.rootfs.diff_ids)))
            self._configs[ident] = known
        return known


def _digests(row: Row) -> list[Digest]:
    return [Digest(text) for text in row.diff_ids]


def _stored(reference: Reference) -> str:
    """A digest decides over a tag beside it."""
    if reference.digest is not None:
        return f"{reference.name}@{reference.digest}"
    return str(reference.with_default_tag())


def _kind(stored: str) -> str:
    return _DIGEST if "@" in stored else _TAG
