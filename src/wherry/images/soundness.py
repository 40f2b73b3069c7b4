"""Whether every image is whole: its config, its layers, its names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from wherry.images.catalog import Catalog
from wherry.images.layers import Layers
from wherry.spec import image as spec
from wherry.spec.digest import Digest
from wherry.store.content import Content
from wherry.store.records import Records
from wherry.store.soundness import Finding
from wherry.store.unreadable import idents

_AGAIN = "pull, load or build it again, or remove it"


def check(catalog: Catalog, content: Content, layers: Layers, records: Records) -> Iterator[Finding]:
    """What is wrong with the images, at any time."""
    for ident in catalog.ids():
        if catalog.has(ident):
            yield from _image(ident, catalog, content, layers)
    doubtful = idents(records, "image")
    for kind in ("tag", "digest"):
        for name, ident in records.names(kind):
            if ident not in doubtful and records.get("image", ident) is None and records.resolve(kind, name) == ident:
                mend = partial(_release, records, kind, name, ident)
                yield Finding(subject=f"{kind} {name}", fact=f"names image {ident}, which is not there", remedy="drop it", mend=mend)


def _image(ident: str, catalog: Catalog, content: Content, layers: Layers) -> Iterator[Finding]:
    image = catalog.get(ident)
    subject = f"image {ident}" + (f" ({image.repo_tags[0]})" if image.repo_tags else "")
    try:
        content.read(Digest(ident), spec.CONFIG_LIMIT)
    except (OSError, ValueError) as error:
        if catalog.has(ident):
            known = not image.damage
            yield Finding(
                subject=subject,
                fact=f"its config can't be read: {error}",
                remedy="write it again, as the daemon has it in memory" if known else _AGAIN,
                mend=partial(_rewrite, content, ident, image.raw) if known else partial(content.set_aside, Digest(ident)),
            )
    missing = [chain_id for chain_id in image.chain_ids if not layers.exists(chain_id)]
    if missing and catalog.has(ident):
        yield Finding(subject=subject, fact=f"needs layer {missing[0]}, which is missing or damaged", remedy=_AGAIN)


def is_whole(ident: str, catalog: Catalog, content: Content, layers: Layers) -> bool:
    """Whether there is nothing of the image to fetch."""
    image = catalog.get(ident)
    return not image.damage and content.has(Digest(ident)) and all(map(layers.exists, image.chain_ids))


def _rewrite(content: Content, ident: str, raw: bytes) -> None:
    content.set_aside(Digest(ident))
    content.put(raw)


def _release(records: Records, kind: str, name: str, ident: str) -> None:
    with records.transaction():
        if records.resolve(kind, name) == ident and records.get("image", ident) is None:
            records.release(kind, name)
