"""save and load: images as one tar stream, an OCI layout with the files that older Dockers read.

An archive that is loaded is hostile: its paths are only keys of a dictionary here, nothing is written under a name it chose, and nothing
of it stays when anything in it is wrong.  Source: OCI image-spec 1.1, image-layout.md; moby/docker-image-spec 1.3; dockerd 28's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.errors import Internal, InvalidRequest, NotFound
from wherry.images import platforms
from wherry.images.catalog import Catalog, Image
from wherry.images.layers import Layers
from wherry.images.layouts import NAME, REF_NAME, Found, images
from wherry.images.members import Members
from wherry.images.progress import Emit, Meter
from wherry.spec import image as spec
from wherry.spec import reference as names
from wherry.spec.digest import Digest, chain_ids, sha256
from wherry.spec.image import Platform
from wherry.spec.reference import InvalidReference, Reference
from wherry.store.content import Content
from wherry.store.layer import NullSink
from wherry.store.parsing import Start, inline
from wherry.tree.compression import HEAD, kind_of
from wherry.tree.tar import Entry, Kind, Sink, Source
from wherry.tree.tar_writer import Writer

_MEDIA_TYPES = {"": spec.OCI_LAYER, "gzip": spec.DOCKER_LAYER_GZIP, "zstd": spec.OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One image to save, and the tags it goes under."""

    image: Image
    tags: tuple[Reference, ...]


def choose(catalog: Catalog, texts: Iterable[str]) -> list[Saved]:
    """What ``docker save`` writes for these names and ids: a repository's name alone means all its tags.

    Raises NotFound, InvalidRequest.
    """
    tags: dict[str, set[Reference]] = {}
    for text in texts:
        try:
            reference = None if text.startswith("sha256:") else _reference(text)
            found = catalog.tags_of(reference) if reference is not None and reference.is_name_only else []
            if found:
                for item in found:
                    tags.setdefault(catalog.named(item) or "", set()).add(item)
                continue
            image = catalog.find(text)
        except InvalidReference as error:
            raise InvalidRequest(str(error)) from error
        if image is None:
            is_short = reference is None or reference.is_name_only
            raise NotFound(f"No such image: {text}" if is_short else "reference does not exist")
        if image.damage:
            raise Internal(image.damage)
        named = reference is not None and reference.digest is None and catalog.named(reference.with_default_tag()) == image.id
        tags.setdefault(image.id, set()).update([reference.with_default_tag()] if named and reference is not None else [])
    return [Saved(image=catalog.whole(ident), tags=tuple(sorted(items, key=str))) for ident, items in tags.items() if ident]


def save(layers: Layers, chosen: Sequence[Saved], out: Sink) -> None:
    """Write the archive.  Raises OSError, LayerDamaged."""
    writer = Writer(out)
    for directory in ("blobs/", "blobs/sha256/"):
        writer.add(Entry(name=directory, kind=Kind.DIRECTORY, mode=0o755))
    written: set[Digest] = set()
    manifests: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    present = {saved.image.id for saved in chosen}
    for saved in chosen:
        image = saved.image
        sources = [_save_layer(layers, writer, image, position, written) for position in range(len(image.diff_ids))]
        raw = _oci_manifest(image, sources)
        for blob in (image.raw, raw):
            if (digest := sha256(blob)) not in written:
                written.add(digest)
                _add(writer, f"blobs/sha256/{digest.hex}", blob)
        manifests += _index_entries(saved, raw)
        items.append(_item(saved, sources, present))
        for tag in saved.tags:
            if image.diff_ids:
                repositories.setdefault(tag.familiar_name, {})[tag.tag or ""] = image.diff_ids[-1].hex
    index = {"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": manifests}
    _add(writer, "index.json", _json(index))
    _add(writer, "manifest.json", _json(items) + b"\n")
    _add(writer, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    if repositories:
        _add(writer, "repositories", _json(repositories) + b"\n")
    writer.finish()


def _save_layer(layers: Layers, writer: Writer, image: Image, position: int, written: set[Digest]) -> dict[str, Any]:
    diff_id, chain_id = image.diff_ids[position], image.chain_ids[position]
    size = layers.tar_size(diff_id)
    if size is None:
        size = layers.write_tar(chain_id, diff_id, NullSink())
    if diff_id not in written:
        written.add(diff_id)
        writer.add(Entry(name=f"blobs/sha256/{diff_id.hex}", size=size))
        layers.write_tar(chain_id, diff_id, _Body(writer))
    return {"mediaType": spec.OCI_LAYER, "size": size, "digest": str(diff_id)}


def _oci_manifest(image: Image, sources: Sequence[dict[str, Any]]) -> bytes:
    config = {"mediaType": spec.OCI_CONFIG, "digest": image.id, "size": len(image.raw)}
    layers = [{"mediaType": item["mediaType"], "digest": item["digest"], "size": item["size"]} for item in sources]
    return _json({"schemaVersion": 2, "mediaType": spec.OCI_MANIFEST, "config": config, "layers": layers})


def _index_entries(saved: Saved, raw: bytes) -> list[dict[str, Any]]:
    descriptor = {"mediaType": spec.OCI_MANIFEST, "digest": str(sha256(raw)), "size": len(raw)}
    if not saved.tags:
        return [descriptor]
    return [{**descriptor, "annotations": {NAME: str(tag), REF_NAME: tag.tag}} for tag in saved.tags]


def _item(saved: Saved, sources: Sequence[dict[str, Any]], present: set[str]) -> dict[str, Any]:
    item: dict[str, Any] = {
        "Config": f"blobs/sha256/{Digest(saved.image.id).hex}",
        "RepoTags": [tag.familiar for tag in saved.tags] or None,
        "Layers": [f"blobs/sha256/{Digest(source['digest']).hex}" for source in sources],
    }
    if saved.image.parent in present:
        item["Parent"] = saved.image.parent
    if sources:
        item["LayerSources"] = {source["digest"]: source for source in sorted(sources, key=lambda source: str(source["digest"]))}
    return item


class _Body:
    """The open entry of a tar writer, as a sink."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._writer.write(bytes(data) if isinstance(data, bytearray) else data)
        return len(data)


def _add(writer: Writer, name: str, data: bytes) -> None:
    writer.add(Entry(name=name, size=len(data)), data)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """load.  Blocking.

    ``forget``: removes the snapshot of a layer that nobody has or wants. ``needed``: the blobs that images refer to.
    """

    catalog: Catalog
    content: Content
    layers: Layers
    forget: Callable[[Digest], None]
    needed: Callable[[], Collection[str]]
    start: Start = inline

    def load(self, source: Source, emit: Emit, *, wanted: Platform | None = None, quiet: bool = False) -> list[Image]:
        """Every image of the archive, plain or compressed.  Raises InvalidRequest; OSError; nothing stays then.

        ``emit`` is called from this thread.
        """
        made: list[Digest] = []
        held: set[Digest] = set()
        try:
            with self.layers.holding() as hold:
                files = Members(self.content, hold, self.start)
                held = files.held
                files.read(source)
                return self._images(files, emit, made, wanted, quiet=quiet)
        except BaseException:
            for chain_id in reversed(made):
                self.forget(chain_id)
            raise
        finally:
            self.layers.drop_blobs(held, self.needed)

    def _images(self, files: Members, emit: Emit, made: list[Digest], wanted: Platform | None, *, quiet: bool) -> list[Image]:
        """``made`` takes the layers that were not here before."""
        found = list(images(files, wanted))
        if not found and not files.has("manifest.json"):  # a list of no images is one, as for Docker
            raise InvalidRequest("invalid archive: no images in it")
        for item in found:
            if (system := spec.decode_config(item.config).os) == "windows":
                raise InvalidRequest(f"cannot load {system} image on linux")
        everything = len(found)
        found = [item for item in found if wanted is None or platforms.matches(wanted, spec.decode_config(item.config).platform)]
        if wanted is not None and everything and not found:
            raise NotFound(f"no image of the archive is for platform {platforms.show(wanted)}")
        return [self._image(files, item, emit, made, quiet=quiet) for item in found]

    def _image(self, files: Members, item: Found, emit: Emit, made: list[Digest], *, quiet: bool) -> Image:
        config = spec.decode_config(item.config)
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(item.layers):
            raise InvalidRequest(f"invalid manifest, layers length mismatch: expected {len(item.layers)}, got {len(diff_ids)}")
        chain = chain_ids(diff_ids)
        with self.layers.hold([*chain, *diff_ids]):
            for position, (diff_id, chain_id) in enumerate(zip(diff_ids, chain, strict=True)):
                if not self.layers.exists(chain_id):
                    parent = chain[position - 1] if position else None
                    self._layer(files, item.layers[position], diff_id, chain_id, parent, emit if not quiet else None)
                    made.append(chain_id)
            sizes = self.layers.sizes(chain)
            with self.catalog.transaction():  # somebody may remove it as soon as others see it
                ident = self.catalog.put(item.config, sizes)
                formers = [self.catalog.name(tag, ident) for tag in item.tags]
                image = self.catalog.get(ident)
        for tag, former in zip(item.tags, formers, strict=True):
            if former is not None:
                emit({"stream": f"The image {tag.familiar} already exists, renaming the old one with ID {former} to empty string\n"})
            emit({"stream": f"Loaded image: {tag.familiar}\n"})
        if not item.tags:
            emit({"stream": f"Loaded image ID: {ident}\n"})
        return image

    def _layer(self, files: Members, key: str, diff_id: Digest, chain_id: Digest, parent: Digest | None, emit: Emit | None) -> None:
        digest, size = files.stored(key)
        meter = None if emit is None else Meter(emit, "Loading layer", diff_id.hex[:12], size)
        with self.content.open(digest) as blob:
            kind = kind_of(blob.read(HEAD))
            if digest == diff_id and not kind:
                self.layers.unpack_tar(chain_id, parent, diff_id)
            else:
                blob.seek(0)
                self.layers.unpack(chain_id, parent, diff_id, blob, meter)
        if digest != diff_id and kind in _MEDIA_TYPES:
            self.layers.remember(diff_id, digest=digest, size=size, media_type=_MEDIA_TYPES[kind])


def _reference(text: str) -> Reference | None:
    """None for what can only be an id."""
    try:
        return names.parse(text)
    except InvalidReference as error:
        if str(error).startswith("invalid repository name"):
            return None
        raise
