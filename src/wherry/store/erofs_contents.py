"""What is in a layer that is a tar with an EROFS index over it: names and inodes from the index, bytes of files from the tar."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from wherry.store.contents import Item
from wherry.tree.apply import OVERLAY_OPAQUE
from wherry.tree.erofs_reader import FileImage, Index

_CHUNK = 1 << 20


class IndexContents:
    """``devices``: the files that hold bodies, in the index's order."""

    def __init__(self, index: str, devices: Sequence[str]) -> None:
        self._devices = devices
        self._file = open(index, "rb", buffering=0)
        try:
            self._index = Index(FileImage(self._file.fileno(), 0, os.fstat(self._file.fileno()).st_size))
        except ValueError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def root(self) -> Item:
        return self._item(self._index.root)

    def children(self, directory: Item) -> Iterator[tuple[bytes, Item]]:
        for name, number in self._index.names(directory.identity):
            yield name, self._item(number)

    def attributes(self, item: Item) -> Mapping[str, bytes]:
        found = self._index.node(item.identity).xattrs or {}
        return {name: value for name, value in found.items() if name != OVERLAY_OPAQUE}

    def data(self, item: Item) -> Iterator[bytes]:
        node = self._index.node(item.identity)
        left, offset = node.size, node.offset
        if not left:
            return
        fd = os.open(self._devices[node.device], os.O_RDONLY | os.O_CLOEXEC)
        try:
            while left and (data := os.pread(fd, min(left, _CHUNK), offset)):
                yield data
                left -= len(data)
                offset += len(data)
        finally:
            os.close(fd)

    def _item(self, number: int) -> Item:
        node = self._index.node(number)
        return Item(
            mode=node.mode,
            uid=node.uid,
            gid=node.gid,
            size=node.size,
            mtime_ns=node.mtime_ns,
            link=node.link,
            rdev=node.rdev,
            identity=number,
            links=1 if stat.S_ISDIR(node.mode) else node.links,
            is_opaque=node.is_opaque,
        )
