"""A layer on its way out: compressed while it is being sent, or as it is where compressing gains nothing."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager

from wherry.images.compression import GzipWriter, shrinks
from wherry.spec.digest import Digest
from wherry.spec.image import DOCKER_LAYER, DOCKER_LAYER_GZIP, Descriptor
from wherry.store.contents import Contents, Item
from wherry.store.layer import BackgroundHash, NullSink
from wherry.tree.tar import Sink

_FEW = 256  # files; more of them are a tree of sources and programs, which shrinks
_LEAST = 1 << 20
_TOGETHER = 256 << 10


def is_dense(contents: Contents) -> bool:
    """Whether the layer is a few large files that are compressed already (archives, models, pictures), by the beginning of each."""
    dense = total = files = 0
    for item in _files(contents):
        files += 1
        if files > _FEW:
            return False
        total += item.size
        if item.size >= _LEAST and not shrinks(memoryview(next(contents.data(item), b""))):
            dense += item.size
    return total >= _LEAST and dense > total * 0.97


def _files(contents: Contents) -> Iterator[Item]:
    pending = [contents.root()]
    while pending:
        for _, item in contents.children(pending.pop()):
            if item.is_directory:
                pending.append(item)
            elif stat.S_ISREG(item.mode):
                yield item


class Gzipped:
    """Compresses, hashes and counts on the way to a sink, from the producing thread; complete when ``finish`` returns."""

    def __init__(self) -> None:
        self._gzip = GzipWriter()
        self._out: Sink = NullSink()
        self.plain_bytes = 0
        self._sent_bytes = 0

    @contextmanager
    def into(self, out: Sink) -> Iterator[None]:
        self._out = out
        with BackgroundHash() as self._digest:
            yield

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self.plain_bytes += len(data)
        self._pass(self._gzip.compress(data))
        return len(data)

    def finish(self) -> Descriptor:
        """Write what is left; what was sent."""
        self._pass(self._gzip.finish())
        return Descriptor(media_type=DOCKER_LAYER_GZIP, digest=self._digest.digest(), size=self._sent_bytes)

    def _pass(self, data: bytes) -> None:
        if data:
            self._sent_bytes += len(data)
            self._digest.update(data)
            self._out.write(data)


class Plain:
    """As ``Gzipped``, of a layer that goes as it is, in pieces worth sending."""

    def __init__(self, diff_id: Digest) -> None:
        self._diff_id = diff_id
        self._out: Sink = NullSink()
        self._small: list[bytes] = []
        self._small_bytes = 0
        self.plain_bytes = 0

    @contextmanager
    def into(self, out: Sink) -> Iterator[None]:
        self._out = out
        yield

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self.plain_bytes += len(data)
        if len(data) >= _TOGETHER:
            self._flush()
            self._out.write(data)
        else:
            self._small.append(bytes(data))
            self._small_bytes += len(data)
            if self._small_bytes >= _TOGETHER:
                self._flush()
        return len(data)

    def finish(self) -> Descriptor:
        self._flush()
        return Descriptor(media_type=DOCKER_LAYER, digest=self._diff_id, size=self.plain_bytes)

    def _flush(self) -> None:
        if self._small:
            self._out.write(b"".join(self._small))
            self._small, self._small_bytes = [], 0
