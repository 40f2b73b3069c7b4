"""Layers: blobs become snapshots, and snapshots become blobs again.

A layer's tar must come out again byte for byte. A snapshotter that keeps tars has it; else what the layer was pulled or loaded as is kept
in content: a compressed blob when it was pulled, the tar itself when it was loaded. A layer made here is packed again from its directory.
A record of kind ``blob`` (by diff_id) tells which compressed blob a layer has, and which repositories are known to hold it.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import msgspec

from wherry.errors import Internal
from wherry.images.compression import BLOCK, PlainReader
from wherry.spec.digest import Digest, chain_ids
from wherry.store.content import Content
from wherry.store.garbage import UNNAMED
from wherry.store.layer import HashingSink, NullSink, write_all
from wherry.store.parsing import Start, inline, unpack
from wherry.store.records import Records
from wherry.store.snapshot import LayerFacts, SnapshotInUse, SnapshotMissing, Snapshotter
from wherry.tree.apply import Whiteouts
from wherry.tree.tar import Limits, Sink, Source

_BLOB = "blob"
_MAX_PLACES = 32
_MAX_TAR = 64 << 30


Hold = Callable[[], AbstractContextManager[Callable[[str], None]]]


@contextmanager
def no_garbage() -> Iterator[Callable[[str], None]]:
    """For a store that nobody sweeps."""
    yield lambda name: None


class Stopped(Exception):
    """Nobody wants the result of this thread's work any more."""


class LayerDamaged(Internal):
    """What the disk holds is not the layer that was stored."""


class Blob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a layer as a blob.

    ``places``: ``domain/path`` of repositories that hold ``digest``, newest first. ``chains``: the snapshots unpacked from it.
    """

    digest: str = ""
    size: int = 0
    media_type: str = ""
    tar_size: int = -1
    places: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What images and the build cache have: chain ids of snapshots, diff_ids of layers."""

    chains: Collection[str]
    diff_ids: Collection[str] = ()


class Layers:
    """Blocking, usable from any thread."""

    def __init__(
        self,
        records: Records,
        content: Content,
        snapshotter: Snapshotter,
        hold_garbage: Hold = no_garbage,
        start: Start = inline,
        put_off: Callable[[], object] = bool,
    ) -> None:
        """``put_off``: called when a layer is kept only for somebody who holds it."""
        self._start = start
        self._records = records
        self._content = content
        self.snapshotter = snapshotter
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._noticed: list[set[str]] = []
        self._hold_garbage = hold_garbage
        self._put_off = put_off

    def blob(self, diff_id: Digest) -> Blob:
        body = self._records.get(_BLOB, diff_id)
        return Blob() if body is None else msgspec.json.decode(body, type=Blob)

    def remember(self, diff_id: Digest, *, digest: Digest, size: int, media_type: str, place: str = "") -> None:
        """The layer's compressed blob is ``digest``, and ``place`` has it."""
        with self._records.transaction():
            known = self.blob(diff_id)
            places = known.places if known.digest == digest else ()
            if place:
                places = (place, *(item for item in places if item != place))[:_MAX_PLACES]
            blob = Blob(digest=str(digest), size=size, media_type=media_type, tar_size=known.tar_size, places=places, chains=known.chains)
            self._records.put(_BLOB, diff_id, msgspec.json.encode(blob))

    def seen(self, blobs: Iterable[tuple[Digest, Digest]], place: str) -> None:
        """``place`` says that it has these layers (diff_id) as these blobs (digest); believed where the layer is known to be that blob."""
        with self._records.transaction(durable=False):
            for diff_id, digest in blobs:
                known = self.blob(diff_id)
                if known.digest == digest and place not in known.places:
                    self.remember(diff_id, digest=digest, size=known.size, media_type=known.media_type, place=place)

    @contextmanager
    def holding(self) -> Iterator[Callable[[str], None]]:
        """Snapshots and blobs (made or yet to be made) whose names are given to the callable are not removed until the block ends."""
        held: list[str] = []
        with self._hold_garbage() as hold_garbage:

            def add(name: str) -> None:
                hold_garbage(name)
                with self._lock:
                    held.append(name)
                    self._held[name] += 1
                    for noticed in self._noticed:
                        noticed.add(name)

            try:
                yield add
            finally:
                with self._lock:
                    self._held.subtract(held)
                    for name in held:
                        if not self._held[name]:
                            del self._held[name]

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[None]:
        """As ``holding``, for names known beforehand."""
        with self.holding() as add:
            for name in names:
                add(name)
            yield

    @property
    def keeps_tars(self) -> bool:
        """Whether a layer's tar stays with its snapshot, so that no other copy of the layer is needed."""
        return self.snapshotter.keeps_tars

    def exists(self, chain_id: Digest) -> bool:
        return self.snapshotter.exists(chain_id)

    def sizes(self, chain: Iterable[Digest]) -> tuple[int, ...]:
        """Bytes of each layer as Docker counts.  Raises SnapshotMissing."""
        return tuple(self.snapshotter.usage(chain_id) for chain_id in chain)

    def unpack(
        self,
        chain_id: Digest,
        parent: Digest | None,
        diff_id: Digest,
        source: Source,
        progress: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> LayerFacts:
        """The layer in ``source``, compressed or not, becomes the snapshot ``chain_id``, unless its bytes are not ``diff_id``'s.

        Raises DigestMismatch, InvalidArchive, BadStream, Stopped, OSError.
        """
        reader = _Watched(PlainReader(source, self._start), progress, stop)
        facts = self.snapshotter.apply(str(chain_id), str(parent) if parent else None, reader, expected=diff_id)
        self._remember_size(diff_id, reader.size_bytes, str(chain_id))
        return facts

    def unpack_tar(self, chain_id: Digest, parent: Digest | None, diff_id: Digest) -> LayerFacts:
        """The tar that content has under ``diff_id`` becomes the snapshot ``chain_id``.  Raises InvalidArchive, OSError."""
        facts = self.snapshotter.adopt(str(chain_id), str(parent) if parent else None, self._content.path(diff_id), diff_id)
        self._remember_size(diff_id, self._content.size(diff_id), str(chain_id))
        return facts

    def unpack_tree(self, source: Source, hold: Callable[[str], object]) -> Digest:
        """A tar that is no image's layer yet, in any compression, becomes a base snapshot: its diff_id.

        It is that of our own packing where the tar itself is not kept. ``hold``: is given `UNNAMED` when the tar is whole, and not before:
        it may be long in coming, and other images must go meanwhile. Raises InvalidArchive, BadStream, OSError.
        """
        if self.snapshotter.keeps_tars:
            watched = _Watched(PlainReader(source, self._start), None, None, ended=lambda: hold(UNNAMED))
            base = self.snapshotter.apply(None, None, watched).diff_id
            self._remember_size(base, watched.size_bytes, str(base))
            return base
        key = f"import-{secrets.token_hex(8)}"
        root = self.snapshotter.prepare(key, None)
        try:
            watched = _Watched(PlainReader(source, self._start), None, None)
            unpack(self._start, watched, root.upper or "", Whiteouts.DELETE, Limits(), None)
            hold(UNNAMED)
            diff_id = self.snapshotter.pack(key, NullSink()).diff_id
            self.snapshotter.commit(key, str(diff_id))
        except BaseException:
            self.snapshotter.remove(key)
            raise
        return diff_id

    def tar_size(self, diff_id: Digest) -> int | None:
        """The length of the layer's tar, when it is known without making it."""
        if self._content.has(diff_id):
            return self._content.size(diff_id)
        known = self.blob(diff_id).tar_size
        return known if known >= 0 else None

    def tar_length(self, chain_id: Digest, diff_id: Digest) -> int | None:
        """As ``tar_size``, or how long what is packed will be."""
        known = self.tar_size(diff_id)
        is_kept = self._content.has(Digest(blob)) if (blob := self.blob(diff_id).digest) else False
        return known if known is not None or is_kept else self.snapshotter.packed_size(chain_id)

    def write_tar(self, chain_id: Digest, diff_id: Digest, out: Sink) -> int:
        """The layer's tar, byte for byte; its length.  Raises LayerDamaged after the last byte when it is not."""
        with HashingSink(out) as sink:
            size_bytes = self.write_unchecked(chain_id, diff_id, sink)
            if (found := sink.digest()) != diff_id:
                raise LayerDamaged(f"layer {diff_id} can't be read back: its bytes have digest {found}")
        self._remember_size(diff_id, size_bytes)
        return size_bytes

    def write_unchecked(self, chain_id: Digest, diff_id: Digest, out: Sink) -> int:
        """As `write_tar`, for a reader that looks at the digest itself."""
        counted = _Counted(out)
        blob = self.blob(diff_id)
        if self._content.has(diff_id):
            with self._content.open(diff_id) as tar:
                _copy(tar, counted)
        elif blob.digest and self._content.has(Digest(blob.digest)):
            with self._content.open(Digest(blob.digest)) as compressed:
                _copy(PlainReader(compressed, self._start), counted)
        else:
            self.snapshotter.write(chain_id, counted)
        return counted.size_bytes

    def discard(self, chain: Iterable[Digest], needed: Callable[[], Needed], gone: Iterable[Digest] = ()) -> list[Digest]:
        """Remove the snapshots ``chain`` (top first) that are not ``needed``, that nobody holds or stands on, and the blobs of the layers
        ``gone`` that neither an image nor a snapshot needs to be saved again.

        What was held at any time since ``needed`` was asked is kept too: who held it may have made an image of it since.
        Returns the snapshots removed.
        """
        removed = []
        with self._noticing() as held:
            found = needed()
            for chain_id in chain:
                if chain_id in found.chains:
                    continue
                with self._lock:
                    is_held = chain_id in held or UNNAMED in held
                    if not is_held:
                        try:
                            discard = self.snapshotter.detach(chain_id)
                        except SnapshotInUse:
                            break
                if is_held:
                    self._put_off()
                    break
                discard()
                removed.append(chain_id)
            for diff_id in gone:
                if diff_id not in found.diff_ids:
                    self._forget(diff_id, held)
        return removed

    @contextmanager
    def _noticing(self) -> Iterator[set[str]]:
        """The names that are held now, and those that will be until the block ends."""
        with self._lock:
            noticed = set(self._held)
            self._noticed.append(noticed)
        try:
            yield noticed
        finally:
            with self._lock:
                self._noticed = [one for one in self._noticed if one is not noticed]

    def _forget(self, diff_id: Digest, held: set[str]) -> None:
        blob = self.blob(diff_id)
        digest = blob.digest
        with self._lock:
            if {diff_id, digest, UNNAMED} & held or self._is_unpacked(blob):
                return
            self._records.delete(_BLOB, diff_id)
            self._content.delete(diff_id)
            if digest:
                self._content.delete(Digest(digest))

    def drop_blobs(self, digests: Iterable[Digest], needed: Callable[[], Collection[str]]) -> None:
        """Delete the blobs that are not ``needed``, but for those that somebody holds, who drops them later.

        ``needed`` is asked while nobody can begin or cease to hold: who made an image of a blob held it until the image was there.
        """
        with self._lock:
            idle = {digest for digest in digests if not self._held[digest]}
            for digest in idle.difference(needed() if idle else ()):
                self._content.delete(digest)

    def roots(self, diff_ids_in_use: set[Digest]) -> set[str]:
        """The blobs of every layer that an image has or that a snapshot was made from; none where snapshots keep the tars."""
        if self.keeps_tars:
            return set()
        found: set[str] = set(map(str, diff_ids_in_use))
        for ident, body in self._records.items(_BLOB):
            blob = msgspec.json.decode(body, type=Blob)
            if ident in found or self._is_unpacked(blob):
                found.update({ident, blob.digest} - {""})
        return found

    def unpacked(self) -> set[str]:
        """The compressed blobs of the layers that are here."""
        blobs = [msgspec.json.decode(body, type=Blob) for _, body in self._records.items(_BLOB)]
        return {blob.digest for blob in blobs if blob.digest and self._is_unpacked(blob)}

    def _is_unpacked(self, blob: Blob) -> bool:
        return any(self.snapshotter.exists(chain_id) for chain_id in blob.chains)

    def _remember_size(self, diff_id: Digest, tar_size: int, chain_id: str = "") -> None:
        with self._records.transaction():
            known = self.blob(diff_id)
            chains = known.chains if not chain_id or chain_id in known.chains else (*known.chains, chain_id)
            if (known.tar_size, known.chains) != (tar_size, chains):
                changed = msgspec.structs.replace(known, tar_size=tar_size, chains=chains)
                self._records.put(_BLOB, diff_id, msgspec.json.encode(changed))


def all_present(snapshotter: Snapshotter, diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """The chain ids of ``diff_ids``.  Raises SnapshotMissing when one of them is no snapshot."""
    chain = tuple(chain_ids(diff_ids))
    for chain_id in chain:
        if not snapshotter.exists(chain_id):
            raise SnapshotMissing(chain_id)
    return chain


class _Watched(io.RawIOBase):
    """A reader that counts, tells how far it got, and stops when asked."""

    def __init__(
        self,
        source: PlainReader,
        progress: Callable[[int], None] | None,
        stop: threading.Event | None,
        ended: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._ended = ended
        self._source = source
        self._progress = progress
        self._stop = stop
        self.size_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._stop is not None and self._stop.is_set():
            raise Stopped
        data = self._source.read1(size)
        self.size_bytes += len(data)
        if self.size_bytes > _MAX_TAR:
            raise LayerDamaged(f"a layer of more than {_MAX_TAR} bytes")
        if self._progress is not None:
            self._progress(self._source.consumed)
        if not data and self._ended is not None:
            self._ended()
        return data


class _Counted:
    """Passes a tar on and counts it."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self.size_bytes = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self.size_bytes += len(data)
        self._out.write(data)
        return len(data)


def _copy(source: Source | PlainReader, out: Sink) -> None:
    while block := source.read(BLOCK):
        write_all(out, block)
