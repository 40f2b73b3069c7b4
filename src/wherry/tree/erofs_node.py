"""Inodes as objects: of one that was read, or of a whole tree in memory where that is small."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from wherry.tree.apply import OVERLAY_OPAQUE
from wherry.tree.erofs_builder import ROOT, Builder
from wherry.tree.erofs_format import BLOCK, encode_attributes, pack_inode


class Node:
    """An inode.  ``device`` and ``offset``: where a regular file's bytes lie; ``rdev``: of a device node, as makedev has it.

    A directory's ``children`` are by name. Two names of one node are a hard link.
    """

    __slots__ = ("children", "device", "gid", "link", "links", "mode", "mtime_ns", "offset", "rdev", "size", "uid", "xattrs")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.size = 0
        self.device = 0
        self.offset = 0
        self.rdev = 0
        self.link = ""
        self.xattrs: dict[str, bytes] | None = None
        self.children: dict[str, Node] | None = None
        self.links = 0

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.mode) and self.rdev == 0

    @property
    def is_opaque(self) -> bool:
        return self.xattrs is not None and self.xattrs.get(OVERLAY_OPAQUE) == b"y"


def new_directory(mode: int = 0o755, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> Node:
    node = Node(stat.S_IFDIR | mode, uid, gid, mtime_ns)
    node.children = {}
    return node


def walk(root: Node) -> Iterator[Node]:
    """Every name's node."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        if node.children:
            pending += node.children.values()


def add_tree(builder: Builder, root: Node) -> None:
    """Put a whole tree into an empty builder."""
    names: dict[int, int] = {}
    for node in walk(root):
        names[id(node)] = names.get(id(node), 0) + 1
    placed: dict[int, tuple[int, bytes]] = {}
    pending = [(ROOT, root)]
    while pending:
        directory, node = pending.pop()
        builder.describe(directory, node.mode, node.uid, node.gid, node.mtime_ns)
        if node.xattrs:
            builder.set_attributes(directory, node.xattrs)
        for text, child in (node.children or {}).items():
            name = os.fsencode(text)
            if child.children is not None:
                pending.append((builder.make_directory(directory, name), child))
            elif (target := placed.get(id(child))) is not None:
                builder.link(directory, name, target, "")
            else:
                builder.put(directory, name, pack_node(child, builder.starts))
                if names[id(child)] > 1:
                    placed[id(child)] = directory, name


def pack_node(node: Node, starts: Sequence[int]) -> bytes:
    """What `Builder.put` takes for a node that is no directory."""
    target = os.fsencode(node.link)
    where = node.rdev
    if stat.S_ISREG(node.mode) and node.size:
        where = starts[node.device] + node.offset // BLOCK
    attributes = encode_attributes(node.xattrs)
    return pack_inode(node.mode, node.uid, node.gid, node.mtime_ns, len(target) or node.size, where, attributes) + target
