"""Removing what no manifest names, while the registry goes on serving.  Blocking.

What is young stays: a push sends blobs first and their manifest last. The long part, reading all manifests, locks nobody out; then, behind
the closed gate, manifests that came meanwhile are read too, and what is still unnamed goes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from wherry.registry import documents
from wherry.registry.gate import Gate
from wherry.registry.holdings import Holdings, blob_key, link_key, manifest_key
from wherry.registry.naming import AnyDigest
from wherry.spec.image import InvalidDocument

YOUNG_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """``links``: how often a repository had a blob that none of its manifests names; ``blobs``, ``size_bytes``: what goes from the disk."""

    links: int
    blobs: int
    size_bytes: int


def collect(holdings: Holdings, gate: Gate, *, young_s: float = YOUNG_S, dry_run: bool = False) -> Collected:
    """Remove blobs that no manifest of their repository names, and are not young."""
    named: dict[str, set[AnyDigest]] = {}
    seen: set[str] = set()
    _mark(holdings, named, seen)
    suspects = _suspects(holdings, named, time.time() - young_s)
    if dry_run:
        return _remove(holdings, suspects, dry_run=True)
    with gate.collecting():
        _mark(holdings, named, seen)
        return _remove(holdings, _suspects(holdings, named, time.time() - young_s, suspects), dry_run=False)


def _mark(holdings: Holdings, named: dict[str, set[AnyDigest]], seen: set[str]) -> None:
    for name in holdings.repositories():
        for digest in holdings.manifests(name):
            key = manifest_key(name, digest)
            if key in seen:
                continue
            try:
                stored = holdings.manifest(name, digest)
                named.setdefault(name, set()).update(documents.read(stored.raw, stored.media_type).blobs)
            except FileNotFoundError:
                continue  # deleted meanwhile
            except InvalidDocument as error:
                raise ValueError(f"{name}@{digest} is damaged: {error}") from error
            seen.add(key)


def _suspects(
    holdings: Holdings, named: dict[str, set[AnyDigest]], before: float, among: dict[AnyDigest, list[str]] | None = None
) -> dict[AnyDigest, list[str]]:
    """Blobs with the repositories that have them for nothing; with none, the blob has no link at all."""
    objects = holdings.objects
    found: dict[AnyDigest, list[str]] = {}
    for digest in list(among) if among is not None else _all_blobs(holdings):
        try:
            holders = [word.replace(":", "/") for word in objects.children(f"links/{digest.word}")]
            idle = [name for name in holders if digest not in named.get(name, ()) and objects.modified(link_key(digest, name)) < before]
            if idle or (not holders and objects.modified(blob_key(digest)) < before):
                found[digest] = idle
        except FileNotFoundError:
            continue
    return found


def _all_blobs(holdings: Holdings) -> list[AnyDigest]:
    objects = holdings.objects
    return [AnyDigest.of_word(word) for group in objects.children("blobs") for word in objects.children(f"blobs/{group}")]


def _remove(holdings: Holdings, suspects: dict[AnyDigest, list[str]], *, dry_run: bool) -> Collected:
    objects = holdings.objects
    links = blobs = size_bytes = 0
    for digest, idle in suspects.items():
        is_last = len(objects.children(f"links/{digest.word}")) == len(idle)
        links += len(idle)
        if is_last and objects.exists(blob_key(digest)):
            blobs += 1
            size_bytes += objects.size(blob_key(digest))
        if dry_run:
            continue
        for name in idle:  # before the blob: a link to nothing would let a manifest in that can't be pulled
            objects.delete(link_key(digest, name))
        if is_last:
            objects.delete(blob_key(digest))
    return Collected(links=links, blobs=blobs, size_bytes=size_bytes)
