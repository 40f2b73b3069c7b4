"""What a registry holds: blobs, which repositories have them, manifests, tags, and who refers to whom.  Blocking.

A blob is kept once; a repository has a link to it. Keys (a digest is ``sha256-<hex>``; a repository's slashes are colons, which its
name can't have):

    blobs/<2 digits>/<digest>           links/<digest>/<repository>      manifests/<repository>/<digest>
    tags/<repository>/<tag>             referrers/<repository>/<digest of the subject>/<digest>

What is written last makes the rest count: a link its blob, a manifest its entry as a referrer, a tag its manifest. So a server that is
killed between two writes leaves what ``garbage.py`` removes, and nothing that a client can see.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import msgspec

from wherry.registry import documents
from wherry.registry.documents import Document
from wherry.registry.gate import Gate
from wherry.registry.naming import AnyDigest
from wherry.registry.objects import Objects

_LOCKS = 64


class UnknownBlob(Exception):
    """A manifest names a blob or manifest that its repository does not have; ``args[0]``: its digest."""


class _Head(msgspec.Struct, frozen=True):
    """The first line of a manifest's object; its bytes follow."""

    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A manifest as it was pushed."""

    digest: AnyDigest
    media_type: str
    raw: bytes


class Holdings:
    """Usable from any thread, and beside a collector in another process."""

    def __init__(self, objects: Objects, gate: Gate) -> None:
        self.objects = objects
        self._gate = gate
        self._locks = [threading.Lock() for _ in range(_LOCKS)]  # two who change the same blob or repository take turns

    # --- blobs

    def has_blob(self, name: str, digest: AnyDigest) -> bool:
        return self.objects.exists(link_key(digest, name))

    def blob_size(self, name: str, digest: AnyDigest) -> int:
        """Raises FileNotFoundError."""
        if not self.has_blob(name, digest):
            raise FileNotFoundError(digest)
        return self.objects.size(blob_key(digest))

    def add_blob(self, name: str, digest: AnyDigest, path: str) -> None:
        """The checked file at ``path`` becomes a blob of ``name``, and durable."""
        with self._gate.adding(), self._lock(digest):
            self.objects.adopt(blob_key(digest), path)
            self.objects.write(link_key(digest, name), b"")

    def mount_blob(self, name: str, digest: AnyDigest, source: str = "") -> bool:
        """Take ``digest`` over from another repository, from any if none is named; whether it has it."""
        with self._gate.adding(), self._lock(digest):
            held = self.has_blob(source, digest) if source else bool(self.objects.children(f"links/{digest.word}"))
            if held:
                self.objects.write(link_key(digest, name), b"")
            return held

    def remove_blob(self, name: str, digest: AnyDigest) -> None:
        """Raises FileNotFoundError."""
        with self._gate.adding(), self._lock(digest):
            if not self.has_blob(name, digest):
                raise FileNotFoundError(digest)
            self.objects.delete(link_key(digest, name))
            if not self.objects.children(f"links/{digest.word}"):
                self.objects.delete(blob_key(digest))

    def drop_blob(self, digest: AnyDigest) -> None:
        """Take it from every repository, as a cache may."""
        with self._gate.adding(), self._lock(digest):
            for word in self.objects.children(f"links/{digest.word}"):  # first, so that nobody is promised what is gone
                self.objects.delete(f"links/{digest.word}/{word}")
            self.objects.delete(blob_key(digest))

    def all_blobs(self) -> list[AnyDigest]:
        objects = self.objects
        return [AnyDigest.of_word(word) for group in objects.children("blobs") for word in objects.children(f"blobs/{group}")]

    def local_path(self, digest: AnyDigest) -> str | None:
        """The blob's file, where there is one."""
        return self.objects.local_path(blob_key(digest))

    # --- manifests

    def resolve(self, name: str, what: AnyDigest | str) -> AnyDigest:
        """The digest that a tag or digest names.  Raises FileNotFoundError."""
        if isinstance(what, AnyDigest):
            return what
        return AnyDigest(self.objects.read(tag_key(name, what)).decode())

    def manifest(self, name: str, what: AnyDigest | str) -> Stored:
        """Raises FileNotFoundError."""
        digest = self.resolve(name, what)
        head, _, raw = self.objects.read(manifest_key(name, digest)).partition(b"\n")
        return Stored(digest=digest, media_type=msgspec.json.decode(head, type=_Head).media_type, raw=raw)

    def put_manifest(self, name: str, what: AnyDigest | str, raw: bytes, document: Document, *, complete: bool = True) -> AnyDigest:
        """Keep a manifest, under a tag when ``what`` is one; its digest, which ``what`` is if it is one, unchecked.

        ``complete``: everything it names must be here. Raises UnknownBlob.
        """
        digest = what if isinstance(what, AnyDigest) else AnyDigest.of(raw)
        with self._gate.adding(), self._lock(name):
            if complete:
                self._require(name, document)
            if document.subject:
                entry = _descriptor(digest, len(raw), document)
                self.objects.write(f"{_referrers(name, document.subject)}/{digest.word}", msgspec.json.encode(entry))
            head = msgspec.json.encode(_Head(media_type=document.media_type))
            self.objects.write(manifest_key(name, digest), head + b"\n" + raw)
            if not isinstance(what, AnyDigest):
                self.objects.write(tag_key(name, what), digest.encode())
        return digest

    def _require(self, name: str, document: Document) -> None:
        for digest in document.blobs:
            if not self.has_blob(name, digest):
                raise UnknownBlob(digest)
        for child in document.children:
            if not self.objects.exists(manifest_key(name, child.digest)):
                raise UnknownBlob(child.digest)

    def remove_manifest(self, name: str, what: AnyDigest | str) -> None:
        """A tag: only it goes. A digest: the manifest and all its tags.  Raises FileNotFoundError."""
        with self._lock(name):
            if not isinstance(what, AnyDigest):
                self.resolve(name, what)
                self.objects.delete(tag_key(name, what))
                return
            stored = self.manifest(name, what)
            for tag in self.tags(name):
                if self.resolve(name, tag) == what:
                    self.objects.delete(tag_key(name, tag))
            self.objects.delete(manifest_key(name, what))
            document = documents.read(stored.raw, stored.media_type)
            if document.subject:
                self.objects.delete(f"{_referrers(name, document.subject)}/{what.word}")

    # --- lists

    def tags(self, name: str) -> list[str]:
        return self.objects.children(f"tags/{flat(name)}")

    def manifests(self, name: str) -> list[AnyDigest]:
        return [AnyDigest.of_word(word) for word in self.objects.children(f"manifests/{flat(name)}")]

    def referrers(self, name: str, subject: AnyDigest) -> list[dict[str, Any]]:
        """Descriptors of the manifests that have ``subject`` as theirs."""
        prefix = _referrers(name, subject)
        found = []
        for word in self.objects.children(prefix):
            try:
                if self.objects.exists(manifest_key(name, AnyDigest.of_word(word))):
                    found.append(msgspec.json.decode(self.objects.read(f"{prefix}/{word}")))
            except FileNotFoundError:
                continue  # deleted just now
        return found

    def has_repository(self, name: str) -> bool:
        return bool(self.objects.children(f"manifests/{flat(name)}"))

    def repositories(self) -> list[str]:
        """Those that have a manifest, in order of name."""
        return sorted(word.replace(":", "/") for word in self.objects.children("manifests"))

    def _lock(self, what: str) -> threading.Lock:
        return self._locks[hash(what) % _LOCKS]


def _descriptor(digest: AnyDigest, size: int, document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": document.media_type, "digest": str(digest), "size": size}
    if document.artifact_type:
        found["artifactType"] = document.artifact_type
    if document.annotations:
        found["annotations"] = document.annotations
    return found


def flat(name: str) -> str:
    return name.replace("/", ":")


def blob_key(digest: AnyDigest) -> str:
    return f"blobs/{digest.hex[:2]}/{digest.word}"


def link_key(digest: AnyDigest, name: str) -> str:
    return f"links/{digest.word}/{flat(name)}"


def manifest_key(name: str, digest: AnyDigest) -> str:
    return f"manifests/{flat(name)}/{digest.word}"


def tag_key(name: str, tag: str) -> str:
    return f"tags/{flat(name)}/{tag}"


def _referrers(name: str, subject: AnyDigest) -> str:
    return f"referrers/{flat(name)}/{subject.word}"
