"""Looking inside images, as the API asks for it (``api/ports.Inside``).  Nothing is unpacked, mounted or run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from wherry.engine.disk import DiskOperations
from wherry.errors import InvalidRequest
from wherry.images import reports
from wherry.images.catalog import Image
from wherry.spec.docker.body import encode
from wherry.spec.docker.inside import LayersReport
from wherry.tree.tar import Sink

_PIECE = 1 << 16

T = TypeVar("T")


class InsideOperations(DiskOperations):
    async def image_files(self, ref: str, *, layer: int) -> AsyncIterator[bytes]:
        image = self.rooms.images.resolve(ref)
        if not 0 <= layer <= len(image.diff_ids):
            raise InvalidRequest(f"image {ref} has no layer {layer}: its layers are 1 to {len(image.diff_ids)}")
        return self._told([image], partial(reports.files, image, self.rooms.snapshotter.contents, layer))

    async def image_layers(self, ref: str) -> LayersReport:
        image = self.rooms.images.resolve(ref)
        with self.rooms.images.layers.hold(image.chain_ids):
            return await self.rooms.attendants.run(reports.layers, image, self.rooms.snapshotter.contents)

    async def image_waste(self, ref: str) -> AsyncIterator[bytes]:
        image = self.rooms.images.resolve(ref)
        return self._told([image], partial(reports.waste, image, self.rooms.snapshotter.contents))

    async def image_differences(self, old: str, new: str) -> AsyncIterator[bytes]:
        before, after = self.rooms.images.resolve(old), self.rooms.images.resolve(new)
        return self._told([before, after], partial(reports.differences, before, after, self.rooms.snapshotter.contents))

    def _told(self, images: Sequence[Image], report: Callable[[], Iterator[T]]) -> AsyncIterator[bytes]:
        """The records of a report as lines of JSON."""
        return self.rooms.images.written(images, partial(_write, report))


def _write(report: Callable[[], Iterator[T]], out: Sink) -> None:
    lines: list[bytes] = []
    size = 0
    for record in report():
        lines.append(encode(record))
        size += len(lines[-1])
        if size >= _PIECE:
            out.write(b"".join(lines))
            lines, size = [], 0
    if lines:
        out.write(b"".join(lines))
