"""What a registry must know of a manifest or index that is pushed to it: what it needs, what it refers to, what it is.

A registry keeps what image-spec readers of the engine (``spec/image.py``) would refuse: artifacts of any type, sha512 digests, indexes in
indexes. What two readers could take differently is refused here too, and reading never costs many times the document's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from wherry.registry.naming import AnyDigest
from wherry.spec import foreign
from wherry.spec import image as spec
from wherry.spec.image import InvalidDocument

ENTRY_LIMIT = 2000
"""Layers or manifests in one document."""

_ELSEWHERE = (spec.DOCKER_FOREIGN_GZIP, "application/vnd.oci.image.layer.nondistributable.")
_KINDS = spec.MANIFESTS | spec.INDEXES


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: spec.Size
    urls: list[str] | None = None
    platform: dict[str, Any] | None = None


class _Fields(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str | None = None
    artifact_type: str | None = None
    config: _Entry | None = None
    layers: list[_Entry] | None = None
    manifests: list[_Entry] | None = None
    subject: _Entry | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A manifest that an index lists, and what it runs on: ``linux/amd64``."""

    digest: AnyDigest
    platform: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or index.  ``blobs``: what must be there to be of use, without layers that live elsewhere."""

    media_type: str
    artifact_type: str
    blobs: tuple[AnyDigest, ...]
    children: tuple[Child, ...]
    subject: AnyDigest | None
    annotations: dict[str, str] | None


def read(raw: bytes, content_type: str = "") -> Document:
    """Raises InvalidDocument.  ``content_type``: as the client sent it."""
    fields = _fields(raw)
    media_type = _media_type(fields, content_type.partition(";")[0].strip().lower())
    is_index = media_type in spec.INDEXES
    if fields.schema_version != 2:
        raise InvalidDocument(f"unsupported schema version {fields.schema_version}")
    if is_index and (fields.layers is not None or fields.config is not None):
        raise InvalidDocument("an index has no 'layers' and no 'config'")
    if not is_index and fields.manifests is not None:
        raise InvalidDocument("a manifest has no 'manifests'")
    if not is_index and fields.config is None:
        raise InvalidDocument("a manifest has a 'config'")
    entries = (fields.manifests if is_index else fields.layers) or []
    if len(entries) > ENTRY_LIMIT:
        raise InvalidDocument(f"more than {ENTRY_LIMIT} entries in one document")
    config_type = fields.config.media_type if fields.config else ""
    needed = [entry for entry in ([fields.config] if fields.config else []) + ([] if is_index else entries) if not _is_elsewhere(entry)]
    return Document(
        media_type=media_type,
        artifact_type=fields.artifact_type or config_type,
        blobs=tuple(dict.fromkeys(_digest(entry) for entry in needed)),
        children=tuple(Child(digest=_digest(entry), platform=_platform(entry)) for entry in entries) if is_index else (),
        subject=_digest(fields.subject) if fields.subject else None,
        annotations=fields.annotations,
    )


def _fields(raw: bytes) -> _Fields:
    if len(raw) > spec.MANIFEST_LIMIT:
        raise InvalidDocument(f"larger than {spec.MANIFEST_LIMIT} bytes")
    try:
        foreign.loads(raw, _once)
        fields = msgspec.json.decode(raw, type=_Fields)
    except InvalidDocument:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not a manifest: {error}") from error
    return fields


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidDocument(f"ambiguous JSON: key {name[:100]!r} appears twice")
        seen.add(name)


def _media_type(fields: _Fields, content_type: str) -> str:
    own = fields.media_type or ""
    sent = content_type if content_type in _KINDS | spec.DOCKER_SCHEMA1 or content_type.startswith("application/vnd.") else ""
    if own and sent and own != sent:
        raise InvalidDocument(f"the document says it is {own[:200]!r} but was sent as {sent[:200]!r}")
    media_type = own or sent or (spec.OCI_INDEX if fields.manifests is not None else spec.OCI_MANIFEST)
    if media_type in spec.DOCKER_SCHEMA1:
        raise InvalidDocument("image manifest schema 1 is not supported: push the image again with a current tool")
    if media_type not in _KINDS:
        raise InvalidDocument(f"not an image manifest or index: {media_type[:200]!r}")
    return media_type


def _digest(entry: _Entry) -> AnyDigest:
    try:
        return AnyDigest(entry.digest)
    except ValueError as error:
        raise InvalidDocument(str(error)) from error


def _is_elsewhere(entry: _Entry) -> bool:
    return bool(entry.urls) or entry.media_type.startswith(_ELSEWHERE)


def _platform(entry: _Entry) -> str:
    platform = entry.platform or {}
    return f"{platform.get('os', '')}/{platform.get('architecture', '')}"
