"""Several layers' indexes become one that shows what a stack of them shows."""

from __future__ import annotations

import heapq
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from wherry.tree.apply import OVERLAY_OPAQUE
from wherry.tree.erofs_builder import ROOT, Builder
from wherry.tree.erofs_node import Node, pack_node
from wherry.tree.erofs_reader import Index

_Found = tuple[bytes, int, int]  # a name, the layer, and its inode there
_name = itemgetter(0)


def merge(builder: Builder, layers: Sequence[Index], *, lowest: bool) -> None:
    """Put what the layers, base first, show into an empty builder, whose devices are theirs in the same order.

    With ``lowest`` nothing lies below and no mark is kept, else marks for what lies further below.
    """
    _Merge(builder, layers, lowest=lowest).run()


class _Shown:
    """What one name stands for, layer after layer: a file, or a directory in some of them, base first."""

    __slots__ = ("directories", "file", "is_opaque", "node")

    def __init__(self) -> None:
        self.file: tuple[int, int] | None = None
        self.directories: list[tuple[int, int]] = []
        self.is_opaque = False
        self.node: Node | None = None

    def add(self, layer: int, number: int, node: Node, *, lowest: bool) -> None:
        if not stat.S_ISDIR(node.mode):
            gone = node.is_whiteout and lowest
            self.file = None if gone else (layer, number)
            self.directories = []
            self.node = None if gone else node
            return
        if self.directories:
            if node.is_opaque:
                self.directories = []
            self.is_opaque = self.is_opaque or node.is_opaque
        else:
            self.is_opaque = node.is_opaque or self.node is not None  # what lies further below stays hidden, as by what this replaces
        self.file = None
        self.directories.append((layer, number))
        self.node = node


class _Merge:
    def __init__(self, builder: Builder, layers: Sequence[Index], *, lowest: bool) -> None:
        self._builder = builder
        self._layers = layers
        self._lowest = lowest
        self._first_devices = [0]
        for index in layers:
            self._first_devices.append(self._first_devices[-1] + index.devices)
        self._linked: dict[tuple[int, int], tuple[int, bytes]] = {}  # where files with several names were put

    def run(self) -> None:
        root = _Shown()  # never opaque: see `apply`
        root.directories = [(layer, index.root) for layer, index in enumerate(self._layers)]
        root.node = self._layers[-1].node(self._layers[-1].root)
        pending = [(ROOT, root)]
        while pending:
            directory, shown = pending.pop()
            self._describe(directory, shown)
            for name, found in groupby(self._names(shown.directories), key=_name):
                child = self._shown(found)
                if child.directories:
                    pending.append((self._builder.make_directory(directory, name), child))
                elif child.file is not None:
                    self._put(directory, name, child)

    def _shown(self, found: Iterable[_Found]) -> _Shown:
        shown = _Shown()
        for _, layer, number in found:
            shown.add(layer, number, self._layers[layer].node(number), lowest=self._lowest)
        return shown

    def _names(self, directories: Sequence[tuple[int, int]]) -> Iterator[_Found]:
        return heapq.merge(*(self._names_of(layer, number) for layer, number in directories))

    def _names_of(self, layer: int, number: int) -> Iterator[_Found]:
        for name, inner in self._layers[layer].names(number):
            yield name, layer, inner

    def _describe(self, directory: int, shown: _Shown) -> None:
        node = shown.node
        assert node is not None
        self._builder.describe(directory, node.mode, node.uid, node.gid, node.mtime_ns)
        attributes = {name: value for name, value in (node.xattrs or {}).items() if name != OVERLAY_OPAQUE}
        if shown.is_opaque and not self._lowest:
            attributes[OVERLAY_OPAQUE] = b"y"
        if attributes:
            self._builder.set_attributes(directory, attributes)

    def _put(self, directory: int, name: bytes, shown: _Shown) -> None:
        node, file = shown.node, shown.file
        assert node is not None
        assert file is not None
        if (target := self._linked.get(file)) is not None:
            self._builder.link(directory, name, target, "")
            return
        node.device += self._first_devices[file[0]]
        self._builder.put(directory, name, pack_node(node, self._builder.starts))
        if node.links > 1:
            self._linked[file] = directory, name
