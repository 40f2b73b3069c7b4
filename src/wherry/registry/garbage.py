"""Removing what nothing leads to, while the registry goes on serving.  Blocking.

What is young stays: a push sends blobs first and their manifest last, an index after its manifests. The long part, reading all manifests,
locks nobody out; then, behind the closed gate, those that came meanwhile are read too, and what is still idle goes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from wherry.registry import documents
from wherry.registry.documents import Document
from wherry.registry.gate import Gate
from wherry.registry.holdings import Holdings, blob_key, link_key, manifest_key
from wherry.registry.naming import AnyDigest
from wherry.spec.image import InvalidDocument

YOUNG_S = 3600.0

Manifests = dict[str, dict[AnyDigest, Document]]
Suspects = dict[AnyDigest, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """``links``: how often a repository had a blob that none of its manifests names; ``blobs``, ``size_bytes``: what goes from the disk."""

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    size_bytes: int = 0


def collect(holdings: Holdings, gate: Gate, *, young_s: float = YOUNG_S, untagged: bool = False, dry_run: bool = False) -> Collected:
    """Remove blobs that no manifest of their repository names, and are not young.

    ``untagged``: first the manifests that no tag leads to, by way of indexes or as the subject of what is referred to. Raises ValueError
    for a manifest that can't be read.
    """
    collector = _Collector(holdings, time.time() - young_s, untagged=untagged)
    collector.read()
    suspects = collector.suspects(None)
    if dry_run:
        return collector.remove(suspects, dry_run=True)
    with gate.collecting():
        collector.read()
        return collector.remove(collector.suspects(suspects), dry_run=False)


class _Collector:
    def __init__(self, holdings: Holdings, before: float, *, untagged: bool) -> None:
        self._holdings = holdings
        self._before = before
        self._untagged = untagged
        self._manifests: Manifests = {}
        self._doomed: dict[str, set[AnyDigest]] = {}

    def read(self) -> None:
        """Know all manifests, and which of them are to go."""
        for name in self._holdings.repositories():
            known = self._manifests.get(name, {})
            found: dict[AnyDigest, Document] = {}
            for digest in self._holdings.manifests(name):
                document = known.get(digest) or self._document(name, digest)
                if document is not None:
                    found[digest] = document
            self._manifests[name] = found
            self._doomed[name] = self._untagged_of(name, found) if self._untagged else set()

    def _document(self, name: str, digest: AnyDigest) -> Document | None:
        try:
            stored = self._holdings.manifest(name, digest)
            return documents.read(stored.raw, stored.media_type)
        except FileNotFoundError:
            return None  # deleted meanwhile
        except InvalidDocument as error:
            raise ValueError(f"{name}@{digest} is damaged: {error}") from error

    def _untagged_of(self, name: str, found: dict[AnyDigest, Document]) -> set[AnyDigest]:
        fresh = [self._holdings.resolve(name, tag) for tag in self._holdings.tags(name)]
        fresh += [digest for digest in found if self._is_young(manifest_key(name, digest))]
        kept: set[AnyDigest] = set()
        while fresh:
            kept.update(fresh)
            children = {child.digest for digest in fresh if digest in found for child in found[digest].children}
            referrers = {digest for digest, document in found.items() if document.subject in kept}
            fresh = [digest for digest in children | referrers if digest in found and digest not in kept]
        return set(found) - kept

    def suspects(self, among: Suspects | None) -> Suspects:
        """Blobs with the repositories that have them for nothing; with none, the blob has no link at all."""
        objects = self._holdings.objects
        named = {
            name: {blob for digest, document in found.items() if digest not in self._doomed[name] for blob in document.blobs}
            for name, found in self._manifests.items()
        }
        suspects: Suspects = {}
        for digest in list(among) if among is not None else self._holdings.all_blobs():
            try:
                holders = [word.replace(":", "/") for word in objects.children(f"links/{digest.word}")]
                idle = [name for name in holders if digest not in named.get(name, ()) and not self._is_young(link_key(digest, name))]
                if idle or (not holders and not self._is_young(blob_key(digest))):
                    suspects[digest] = idle
            except FileNotFoundError:
                continue  # deleted meanwhile
        return suspects

    def _is_young(self, key: str) -> bool:
        return self._holdings.objects.modified(key) >= self._before

    def remove(self, suspects: Suspects, *, dry_run: bool) -> Collected:
        objects = self._holdings.objects
        links = blobs = size_bytes = 0
        manifests = sum(map(len, self._doomed.values()))
        if not dry_run:
            for name, doomed in self._doomed.items():
                for digest in doomed:
                    self._holdings.remove_manifest(name, digest)
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
        return Collected(manifests=manifests, links=links, blobs=blobs, size_bytes=size_bytes)
