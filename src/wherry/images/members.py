"""The files of a hostile archive: its paths are only keys of a dictionary here, nothing is written under a name it chose."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from wherry.errors import InvalidRequest
from wherry.images.compression import PlainReader
from wherry.spec.digest import Digest, sha256
from wherry.store.content import Content
from wherry.store.layer import hash_only
from wherry.store.parsing import Outline, Start
from wherry.tree.compression import HEAD, kind_of
from wherry.tree.tar import Entry, Kind, Limits, Source

_SMALL = 1 << 20
_SMALL_TOTAL = 64 << 20
_LIMITS = Limits(entries=1 << 16)
_MAX_HOPS = 8


class Members:
    """The regular files of an archive: small ones in memory, others as blobs in content; links by what they name."""

    def __init__(self, content: Content, hold: Callable[[str], None], start: Start) -> None:
        self._content = content
        self._start = start
        self._hold = hold
        self.held: set[Digest] = set()  # every blob that was stored, or was there already
        self._small: dict[str, bytes] = {}
        self._small_bytes = 0
        self._blobs: dict[str, tuple[Digest, int]] = {}
        self._links: dict[str, str] = {}

    def read(self, source: Source) -> None:
        """An archive in any compression.  Raises InvalidRequest, InvalidArchive, BadStream, OSError."""
        with PlainReader(source, self._start) as plain, Outline(self._start, plain, _LIMITS) as reader:
            self._read(reader)
            reader.drain()
        if not (self._small or self._blobs or self._links):
            raise InvalidRequest("unexpected EOF")

    def _read(self, reader: Outline) -> None:
        for entry in reader:
            name = posixpath.normpath("/" + entry.name)[1:]
            self._forget(name)
            if entry.kind is Kind.FILE and entry.segments is None:
                self._take(name, entry, reader)
            elif entry.kind is Kind.SYMLINK:
                self._links[name] = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), entry.link))[1:]
            elif entry.kind is Kind.HARDLINK:
                self._links[name] = posixpath.normpath("/" + entry.link)[1:]

    def has(self, name: str) -> bool:
        return self._key(name) is not None

    def text(self, name: str, limit: int) -> bytes:
        """A small file.  Raises InvalidRequest when it is absent or larger than ``limit``."""
        key = self._key(name)
        if key is None:
            raise InvalidRequest(f"invalid archive: no file {name[:200]!r} in it")
        if key in self._small:
            data = self._small[key]
        else:
            digest, size = self._blobs[key]
            if size > limit:
                raise InvalidRequest(f"invalid archive: {name[:200]!r} is larger than {limit} bytes")
            data = self._content.read(digest, limit)
        if len(data) > limit:
            raise InvalidRequest(f"invalid archive: {name[:200]!r} is larger than {limit} bytes")
        return data

    def stored(self, name: str) -> tuple[Digest, int]:
        """A file as a blob in content: digest and size.  Raises InvalidRequest when it is absent."""
        key = self._key(name)
        if key is None:
            raise InvalidRequest(f"invalid archive: no file {name[:200]!r} in it")
        if key in self._small:
            data = self._small[key]
            digest = sha256(data)
            self._blobs[key] = self._own(digest, lambda: self._content.put(data)), len(data)
            del self._small[key]
        return self._blobs[key]

    def diff_id(self, name: str) -> Digest:
        """The digest of a layer's tar, as it is or compressed.  Raises InvalidRequest, BadStream."""
        digest, _ = self.stored(name)
        with self._content.open(digest) as blob:
            if not kind_of(blob.read(HEAD)):
                return digest
            blob.seek(0)
            return hash_only(PlainReader(blob, self._start), None)

    def _take(self, name: str, entry: Entry, reader: Outline) -> None:
        if entry.size <= _SMALL and self._small_bytes + entry.size <= _SMALL_TOTAL:
            self._small_bytes += entry.size
            self._small[name] = b"".join(bytes(block) for block in iter(reader.read, b""))
            return
        with self._content.ingest(entry.size) as writer:
            while block := reader.read():
                writer.write(block)
            digest = writer.digest
            self._blobs[name] = self._own(digest, lambda: writer.commit(digest, entry.size)), entry.size

    def _own(self, digest: Digest, store: Callable[[], Digest]) -> Digest:
        if digest not in self.held:
            self.held.add(digest)
            self._hold(digest)
        if not self._content.has(digest):
            store()
        return digest

    def _forget(self, name: str) -> None:
        """A later entry of the same name replaces the former."""
        self._small.pop(name, None)
        self._blobs.pop(name, None)
        self._links.pop(name, None)

    def _key(self, name: str) -> str | None:
        key = posixpath.normpath("/" + name)[1:]
        for _ in range(_MAX_HOPS):
            if key in self._small or key in self._blobs:
                return key
            if key not in self._links:
                return None
            key = self._links[key]
        return None
