"""Which images an archive holds, in every layout that tools have written: Docker's, OCI's, Docker's before 1.10, skopeo's directories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wherry.errors import InvalidRequest, NotFound
from wherry.images import platforms
from wherry.images.members import Members
from wherry.spec import foreign
from wherry.spec import image as spec
from wherry.spec import reference as names
from wherry.spec.digest import Digest, sha256
from wherry.spec.image import Descriptor, Manifest, Platform
from wherry.spec.reference import InvalidReference, Reference

NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_REFERRER = "vnd.docker.reference.type"  # what is about another manifest: an attestation
_MAX_IMAGES = 10_000
_V1_ID = re.compile(r"[0-9a-f]{64}")
_V1_ONLY = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image in an archive: its config, the keys of its layers' files, its names."""

    config: bytes
    layers: tuple[str, ...]
    tags: tuple[Reference, ...]


def images(files: Members, wanted: Platform | None) -> Iterator[Found]:
    """Every image; of an index the one for ``wanted``, else for this machine, else the first.

    Raises InvalidRequest, NotFound (none is for ``wanted``).
    """
    is_layout = files.has("index.json") and files.has("oci-layout")
    if files.has("manifest.json") and not (is_layout and wanted is not None):  # it names one platform of an image, index.json all
        yield from _docker_images(files)
    elif is_layout:
        yield from _oci_images(files, wanted)
    elif files.has("repositories"):
        yield from _old_images(files)
    else:
        raise InvalidRequest("invalid archive: does not contain a manifest.json")


def _docker_images(files: Members) -> Iterator[Found]:
    try:
        items = foreign.loads(files.text("manifest.json", spec.CONFIG_LIMIT))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"invalid manifest.json: {error}") from error
    if isinstance(items, dict) and "schemaVersion" in items:
        yield _directory_image(files)
        return
    if items is None:
        raise InvalidRequest("invalid manifest, manifest cannot be null (but can be [])")
    if not isinstance(items, list) or len(items) > _MAX_IMAGES:
        raise InvalidRequest("invalid manifest.json: not a list of images")
    for item in items:
        if not isinstance(item, dict):
            raise InvalidRequest("invalid manifest.json: not a list of images")
        layers, tags, config = item.get("Layers") or [], item.get("RepoTags") or [], item.get("Config")
        if not isinstance(config, str) or not _are_texts(layers) or not _are_texts(tags) or len(layers) > spec.LAYER_LIMIT:
            raise InvalidRequest("invalid manifest.json: Config, RepoTags or Layers is not what it should be")
        yield Found(config=files.text(config, spec.CONFIG_LIMIT), layers=tuple(layers), tags=tuple(_tag(text) for text in tags))


def _directory_image(files: Members) -> Found:
    """The image of a directory as ``skopeo copy`` makes it (``dir:``): a manifest, and blobs named by their digests' hex."""
    document = spec.decode(files.text("manifest.json", spec.MANIFEST_LIMIT))
    if not isinstance(document, Manifest):
        raise InvalidRequest("invalid archive: its manifest.json is an index, which holds no image by itself")
    keys = tuple(layer.digest.hex for layer in document.layers)
    for layer, key in zip(document.layers, keys, strict=True):
        _check_blob(files, key, layer)
    return Found(config=_blob(files, document.config.digest.hex, document.config, spec.CONFIG_LIMIT), layers=keys, tags=())


def _old_images(files: Members) -> Iterator[Found]:
    """The layout of Docker before 1.10: ``repositories``, and for each layer a directory with VERSION, json and layer.tar.

    The config is made of the v1 documents as Docker makes it, byte for byte: the id is the same.
    """
    try:
        repositories = foreign.loads(files.text("repositories", spec.CONFIG_LIMIT))
        named = [(f"{name}:{tag}", ident) for name, tags in repositories.items() for tag, ident in tags.items()]
    except (ValueError, RecursionError, AttributeError) as error:
        raise InvalidRequest(f"invalid repositories file: {error}") from error
    if len(named) > _MAX_IMAGES:
        raise InvalidRequest(f"invalid repositories file: more than {_MAX_IMAGES} names")
    tags: dict[str, list[Reference]] = {}
    for text, ident in named:
        tags.setdefault(_v1_id(ident), []).append(_tag(text))
    for ident, references in tags.items():
        yield _old_image(files, ident, tuple(references))


def _old_image(files: Members, top: str, tags: tuple[Reference, ...]) -> Found:
    documents: list[dict[str, Any]] = []
    keys: list[str] = []
    ident = top
    while ident:
        if len(keys) >= spec.LAYER_LIMIT:
            raise InvalidRequest(f"invalid archive: image {top} has more than {spec.LAYER_LIMIT} layers")
        keys.append(f"{_v1_id(ident)}/layer.tar")
        try:
            document = foreign.loads(files.text(f"{ident}/json", spec.CONFIG_LIMIT))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"invalid archive: {ident}/json: {error}") from error
        if not isinstance(document, dict):
            raise InvalidRequest(f"invalid archive: {ident}/json is not an object")
        documents.append(document)
        ident = document.get("parent") or ""
    documents.reverse()
    keys.reverse()
    config = {key: value for key, value in documents[-1].items() if key not in _V1_ONLY}
    config["rootfs"] = {"type": "layers", "diff_ids": [str(files.diff_id(key)) for key in keys]}
    config["history"] = [_v1_history(document) for document in documents]
    text = json.dumps({key: config[key] for key in sorted(config)}, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":  # as Go writes them
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Found(config=text.encode(errors="surrogatepass"), layers=tuple(keys), tags=tags)


def _v1_id(ident: object) -> str:
    if not isinstance(ident, str) or _V1_ID.fullmatch(ident) is None:
        raise InvalidRequest(f"invalid archive: {str(ident)[:100]!r} is no layer's id")
    return ident


def _v1_history(document: dict[str, Any]) -> dict[str, Any]:
    made_by = document.get("container_config")
    command = made_by.get("Cmd") if isinstance(made_by, dict) else None
    entry = {
        "created": document.get("created"),
        "created_by": " ".join(map(str, command)) if isinstance(command, list) else "",
        "author": document.get("author"),
        "comment": document.get("comment"),
    }
    return {key: value for key, value in entry.items() if value}


def _oci_images(files: Members, wanted: Platform | None) -> Iterator[Found]:
    found: dict[Digest, tuple[Descriptor, list[Reference]]] = {}
    by_name: dict[str, list[Descriptor]] = {}
    for descriptor in spec.decode_index(files.text("index.json", spec.MANIFEST_LIMIT)).manifests:
        annotations = descriptor.annotations or {}
        if _REFERRER not in annotations:
            by_name.setdefault(annotations.get(NAME) or annotations.get(REF_NAME, ""), []).append(descriptor)
    for text, descriptors in by_name.items():
        if len(descriptors) > 1 and all(item.platform is not None for item in descriptors):
            descriptors = [_select(files, descriptors, wanted)]  # an index, laid flat
        for descriptor in descriptors:
            _, tags = found.setdefault(descriptor.digest, (descriptor, []))
            if "/" in text or ":" in text:
                tags.append(_tag(text))
    refusals = []
    for descriptor, tags in found.values():
        try:
            manifest = _oci_manifest_of(files, descriptor, wanted)
        except NotFound as error:  # other images of the archive may be for the platform
            refusals.append(error)
            continue
        config = _oci_blob(files, manifest.config, spec.CONFIG_LIMIT)
        layers = tuple(_key(layer.digest) for layer in manifest.layers)
        for layer, key in zip(manifest.layers, layers, strict=True):
            _check_blob(files, key, layer)
        yield Found(config=config, layers=layers, tags=tuple(tags))
    if refusals and (wanted is None or len(refusals) == len(found)):
        raise refusals[0]


def _oci_manifest_of(files: Members, descriptor: Descriptor, wanted: Platform | None) -> Manifest:
    for _ in range(3):
        document = spec.decode(_oci_blob(files, descriptor, spec.MANIFEST_LIMIT), descriptor.media_type)
        if isinstance(document, Manifest):
            return document
        descriptor = _select(files, document.manifests, wanted)
    raise InvalidRequest("invalid archive: an image index within an index within an index")


def _select(files: Members, manifests: list[Descriptor], wanted: Platform | None) -> Descriptor:
    """Of those that are in the archive: a store that holds a part of an index exports all of the index with that part.

    The first where none is for this machine, as ``docker load`` takes such an image.
    """
    present = [item for item in manifests if _REFERRER not in (item.annotations or {}) and files.has(_key(item.digest))]
    try:
        return platforms.select(present, wanted or platforms.host())
    except NotFound:
        if wanted is not None or not present:
            raise
        return present[0]


def _oci_blob(files: Members, descriptor: Descriptor, limit: int) -> bytes:
    return _blob(files, _key(descriptor.digest), descriptor, limit)


def _key(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _check_blob(files: Members, key: str, descriptor: Descriptor) -> None:
    if files.stored(key) != (descriptor.digest, descriptor.size):
        raise InvalidRequest(f"invalid archive: {key} is not the blob it is named after")


def _blob(files: Members, key: str, descriptor: Descriptor, limit: int) -> bytes:
    raw = files.text(key, limit)
    if sha256(raw) != descriptor.digest or len(raw) != descriptor.size:
        raise InvalidRequest(f"invalid archive: blob {descriptor.digest} is not the one it is named after")
    return raw


def _tag(text: str) -> Reference:
    try:
        return names.parse_tag(text)
    except InvalidReference as error:
        raise InvalidRequest(f"invalid tag {json.dumps(text[:300], ensure_ascii=False)}: {error}") from error


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
