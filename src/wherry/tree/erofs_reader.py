"""EROFS images of ours, read inode by inode: what that costs in memory does not grow with the image."""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Protocol

from wherry.tree.erofs_format import (
    BLOCK,
    DEVICE,
    DIRENT,
    EXTENDED,
    INLINE,
    INODE,
    MAGIC,
    SLOT,
    SUPER,
    SUPER_OFFSET,
    Damaged,
    attributes_length,
    decode_attributes,
    nanoseconds,
)
from wherry.tree.erofs_node import Node

_PAGE: Final = 16 << 10
_PAGES: Final = 4
_BAD: Final = (struct.error, IndexError, KeyError, ValueError)


class Image(Protocol):
    """The bytes of an image."""

    def at(self, position: int, size: int) -> bytes:
        """So many from there, fewer at the end."""


class FileImage:
    """``size_bytes`` of an open file from ``start`` on."""

    def __init__(self, fd: int, start: int, size_bytes: int) -> None:
        self._fd = fd
        self._start = start
        self._size_bytes = size_bytes
        self._page = lru_cache(_PAGES)(self._read_page)

    def at(self, position: int, size: int) -> bytes:
        number, offset = divmod(position, _PAGE)
        data = self._page(number)[offset : offset + size]
        while len(data) < size and (number + 1) * _PAGE < self._size_bytes:
            number += 1
            data += self._page(number)[: size - len(data)]
        return data

    def _read_page(self, number: int) -> bytes:
        start = number * _PAGE
        return os.pread(self._fd, max(min(_PAGE, self._size_bytes - start), 0), self._start + start)


class MemoryImage:
    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data

    def at(self, position: int, size: int) -> bytes:
        return bytes(self._data[position : position + size])


class Index:
    """An image, looked into.  Raises Damaged, here and later.  ``devices``: how many it has; ``root``: the root directory's number."""

    def __init__(self, image: Image) -> None:
        self._image = image
        try:
            fields = SUPER.unpack(image.at(SUPER_OFFSET, SUPER.size))
            if fields[0] != MAGIC or fields[3] != BLOCK.bit_length() - 1:
                raise ValueError("no superblock")
            self.root: int = fields[5]
            self.devices, slot = fields[16], fields[17]
            table = image.at(slot * DEVICE.size, self.devices * DEVICE.size)
            self._starts = [DEVICE.unpack_from(table, number * DEVICE.size)[2] for number in range(self.devices)]
        except _BAD as error:
            raise _damaged(error) from error

    def node(self, number: int) -> Node:
        """The inode ``number``, without children."""
        try:
            node, where = self._inode(number)
            kind = stat.S_IFMT(node.mode)
            if kind == stat.S_IFLNK:
                node.link, node.size = os.fsdecode(self._image.at(where, node.size)), 0
            elif kind == stat.S_IFREG and node.size:
                block = where // BLOCK
                node.device = bisect_right(self._starts, block) - 1
                node.offset = (block - self._starts[node.device]) * BLOCK
            elif kind == stat.S_IFDIR:
                node.size = 0
        except _BAD as error:
            raise _damaged(error) from error
        return node

    def names(self, number: int) -> Iterator[tuple[bytes, int]]:
        """The names in the directory ``number`` and their inodes' numbers, in order of the names' bytes."""
        try:
            node, where = self._inode(number)
            if not stat.S_ISDIR(node.mode):
                raise ValueError("names in what is no directory")
            for start in range(0, node.size, BLOCK):
                yield from _names(self._image.at(where + start, min(BLOCK, node.size - start)))
        except _BAD as error:
            raise _damaged(error) from error

    def _inode(self, number: int) -> tuple[Node, int]:
        """The node with the size that is told, and where its data begins."""
        place = number * SLOT
        layout, count, mode, _, size, where, _, uid, gid, seconds, rest, links = INODE.unpack(self._image.at(place, INODE.size))
        node = Node(mode, uid, gid, nanoseconds(seconds, rest))
        node.links = links
        node.size = size
        end = place + INODE.size
        if count:
            length = attributes_length(count)
            node.xattrs = decode_attributes(self._image.at(end, length))
            end += length
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            node.rdev = where
        return node, end if layout & ~EXTENDED == INLINE else where * BLOCK


def _names(block: bytes) -> Iterator[tuple[bytes, int]]:
    count = DIRENT.unpack_from(block)[1] // DIRENT.size
    entries = [DIRENT.unpack_from(block, position * DIRENT.size) for position in range(count)]
    ends = [entry[1] for entry in entries[1:]] + [len(block)]
    for (number, offset, _), end in zip(entries, ends, strict=True):
        name = block[offset:end].rstrip(b"\0")
        if not name or b"\0" in name or b"/" in name:
            raise ValueError("a name that is none")
        if name not in (b".", b".."):
            yield name, number


def _damaged(error: Exception) -> Damaged:
    return Damaged(f"not a layer's index: {error}")
