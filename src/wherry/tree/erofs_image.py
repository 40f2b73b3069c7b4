"""Whole images of trees in memory, for what is small; see `erofs_writer` and `erofs_reader` for what may be large."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence

from wherry.tree.erofs_builder import Builder
from wherry.tree.erofs_format import Device, packed_starts
from wherry.tree.erofs_node import Node, add_tree
from wherry.tree.erofs_reader import Index, MemoryImage
from wherry.tree.erofs_writer import write


def encode(root: Node, devices: Sequence[Device]) -> bytes:
    """The image of the tree ``root``, whose nodes' ``device`` is a position in ``devices``.  Raises TooLarge, OSError."""
    with tempfile.TemporaryFile() as image, tempfile.TemporaryFile() as scratch:
        builder = Builder(scratch.fileno(), packed_starts(devices))
        add_tree(builder, root)
        write(builder, image.fileno(), scratch.fileno(), devices)
        return image.read()


def decode(image: bytes | memoryview) -> Node:
    """The tree of an image.  Raises Damaged."""
    index = Index(MemoryImage(image))
    root = index.node(index.root)
    pending = [(root, index.root)]
    shared: dict[int, Node] = {}
    while pending:
        directory, number = pending.pop()
        directory.children = {}
        for name, inner in index.names(number):
            node = shared.get(inner) or index.node(inner)
            if stat.S_ISDIR(node.mode):
                pending.append((node, inner))
            elif node.links > 1:
                shared[inner] = node
            directory.children[os.fsdecode(name)] = node
    return root


def decode_root(head: bytes) -> Node:
    """The root directory alone, without children, from the image's first 64 KiB.  Raises Damaged."""
    index = Index(MemoryImage(head))
    return index.node(index.root)
