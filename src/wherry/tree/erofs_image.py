"""EROFS images that hold names and inodes only: the bytes of files lie elsewhere, on further devices.

Blocks have 512 bytes, so that a file's bytes in a tar begin with a block. All is in the uncompressed layout: one extended inode of 64 bytes
and its attributes for each node, directories and symlinks behind it in the same block where they fit. The devices follow the image in one
space of block numbers.  Source: Linux, fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from wherry.tree.erofs_tree import BLOCK, Node

_MAGIC: Final = 0xE0F5E1E2
_SUPER_OFFSET: Final = 1024
_SLOT: Final = 32  # an inode's number counts these
_DEVICE: Final = struct.Struct("<64sII56x")
_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
_INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT: Final = struct.Struct("<QHBx")
_COMPAT_MTIME: Final = 0x2
_INCOMPAT_DEVICES: Final = 0x8
_EXTENDED: Final = 1
_PLAIN: Final = 0 << 1
_INLINE: Final = 2 << 1
_FIRST_DEVICE: Final = _SUPER_OFFSET + _SUPER.size
_ATTRIBUTES_HEAD: Final = 12
_MAX_BLOCKS: Final = 1 << 32
_PREFIXES: Final = {"user.": 1, "trusted.": 4, "security.": 6}
_PREFIX_NAMES: Final = {number: prefix for prefix, number in _PREFIXES.items()}
_KINDS: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}
_SECOND: Final = 1_000_000_000
_BAD: Final = (struct.error, IndexError, KeyError, ValueError)


Image = TypeVar("Image", bytearray, mmap.mmap)


class TooLarge(ValueError):
    """More blocks than an image can number."""


class Damaged(ValueError):
    """The bytes are not an image that `encode` wrote."""


@dataclass(frozen=True, slots=True)
class Device:
    """A file that holds bodies.  ``tag``: 64 ASCII characters that name it."""

    size_bytes: int
    tag: str

    @property
    def blocks(self) -> int:
        return -(-self.size_bytes // BLOCK)


def encode(root: Node, devices: Sequence[Device]) -> bytearray:
    """The image of the tree ``root``, whose nodes' ``device`` is a position in ``devices``; the tree is used up.  Raises TooLarge."""
    return encode_into(root, devices, bytearray)


def encode_into(root: Node, devices: Sequence[Device], allocate: Callable[[int], Image]) -> Image:
    """As `encode`, to the zero bytes that ``allocate`` gives: so many."""
    return _Writer(root, devices).image(allocate)


def decode(image: bytes | memoryview, first_device: int = 0) -> Node:
    """The tree of an image made by `encode`; its devices are numbered from ``first_device``.  Raises Damaged."""
    try:
        return _Reader(image, first_device).tree()
    except _BAD as error:
        raise Damaged(f"not a layer's index: {error}") from error


def decode_root(head: bytes) -> Node:
    """The root directory alone, without attributes or children, from the image's first 64 KiB.  Raises Damaged."""
    try:
        reader = _Reader(head, 0)
        return reader.inode(reader.root)[0]
    except (struct.error, ValueError) as error:
        raise Damaged(f"not a layer's index: {error}") from error


class Index:
    """An image made by `encode`, read inode by inode: what it costs does not grow with it.  Raises Damaged, here and later.

    ``close`` gives ``image`` back, which may be a mapped file.
    """

    def __init__(self, image: bytes | memoryview | mmap.mmap) -> None:
        try:
            self._reader = _Reader(image, 0)
        except _BAD as error:
            raise Damaged(f"not a layer's index: {error}") from error
        self.root = self._reader.root

    def node(self, number: int) -> Node:
        """The inode ``number``, without children."""
        try:
            return self._reader.inode(number)[0]
        except _BAD as error:
            raise Damaged(f"not a layer's index: {error}") from error

    def names(self, number: int) -> Iterator[tuple[bytes, int]]:
        """The names in the directory ``number`` and their inodes' numbers, in order of the names' bytes."""
        try:
            yield from self._reader.names(self._reader.inode(number)[1])
        except _BAD as error:
            raise Damaged(f"not a layer's index: {error}") from error

    def close(self) -> None:
        self._reader.close()


class _Directory:
    """A directory's content on its way: names in the order of their bytes, cut into blocks; ``data``: all of it, once it is packed."""

    __slots__ = ("data", "names", "node", "nodes", "size_bytes", "starts")

    def __init__(self, node: Node, parent: Node) -> None:
        self.node = node
        children = {os.fsencode(name): child for name, child in (node.children or {}).items()}
        node.children = None
        children[b"."], children[b".."] = node, parent
        self.names = sorted(children)
        self.nodes = [children[name] for name in self.names]
        self.data = b""
        self.starts = array("I")  # of blocks, as positions in both lists
        used = BLOCK
        for position, name in enumerate(self.names):
            needed = _DIRENT.size + len(name)
            if used + needed > BLOCK:
                self.starts.append(position)
                used = 0
            used += needed
        self.size_bytes = (len(self.starts) - 1) * BLOCK + used

    def pack(self) -> None:
        """For each block its entries, then their names: every node has its place now.  The names go, there may be many."""
        blocks = []
        for start, end in zip(self.starts, [*self.starts[1:], len(self.names)], strict=True):
            names = self.names[start:end]
            offset = len(names) * _DIRENT.size
            parts = []
            for name, node in zip(names, self.nodes[start:end], strict=True):
                parts.append(_DIRENT.pack(node.place // _SLOT, offset, _KINDS[stat.S_IFMT(node.mode)]))
                offset += len(name)
            parts += names
            blocks.append(b"".join(parts).ljust(BLOCK, b"\0"))
        self.data = b"".join(blocks)[: self.size_bytes]
        self.names, self.nodes = [], []


class _Inode:
    """A node that is more than a plain file, with what is written behind it: its attributes, and a directory's or symlink's data.

    ``block``: where that data lies when it does not fit behind the inode, else 0.
    """

    __slots__ = ("attributes", "block", "content", "node")

    def __init__(self, node: Node, content: _Directory | bytes | None) -> None:
        self.node = node
        self.content = content
        self.attributes = _encode_attributes(node.xattrs) if node.xattrs else b""
        self.block = 0

    def data(self) -> bytes:
        return self.content.data if isinstance(self.content, _Directory) else self.content or b""


class _Writer:
    def __init__(self, root: Node, devices: Sequence[Device]) -> None:
        self._devices = devices
        self._end = _FIRST_DEVICE + len(devices) * _DEVICE.size
        self._inodes: list[_Inode | Node] = []
        self._root = root

    def image(self, allocate: Callable[[int], Image]) -> Image:
        self._place_all()
        blocks = self._place_large()
        buffer = allocate(blocks * BLOCK)
        starts = self._write_head(buffer, blocks)
        for number, inode in enumerate(self._inodes):
            self._write(buffer, inode, number, starts)
        return buffer

    def _place_all(self) -> None:
        """A place for every node, those of a directory side by side.  Each name is a link, "." and ".." too."""
        queue = [_Directory(self._root, self._root)]
        self._place(_Inode(self._root, queue[0]), queue[0].size_bytes)
        for directory in queue:
            for node in directory.nodes:
                node.links += 1
                if node.place:
                    continue
                if stat.S_ISDIR(node.mode):
                    inner = _Directory(node, directory.node)
                    queue.append(inner)
                    self._place(_Inode(node, inner), inner.size_bytes)
                elif node.link:
                    target = os.fsencode(node.link)
                    self._place(_Inode(node, target), len(target))
                elif node.xattrs:
                    self._place(_Inode(node, None), 0)
                else:
                    node.place = self._end + -self._end % _SLOT
                    self._end = node.place + _INODE.size
                    self._inodes.append(node)
            directory.pack()

    def _place(self, inode: _Inode, size: int) -> None:
        """The next place where the inode's data, unless it is too large, lies in one block."""
        head = _INODE.size + len(inode.attributes)
        place = self._end + -self._end % _SLOT
        if size and (place + head) % BLOCK + size > BLOCK:
            if head % BLOCK + size > BLOCK:
                inode.block = 1
            else:
                place += -place % BLOCK
        if inode.content is not None:
            inode.node.size = size
        inode.node.place = place
        self._end = place + head + (0 if inode.block else size)
        self._inodes.append(inode)

    def _place_large(self) -> int:
        """Blocks for what does not fit behind its inode; the number of all blocks."""
        blocks = -(-self._end // BLOCK)
        for inode in self._inodes:
            if isinstance(inode, _Inode) and inode.block:
                inode.block = blocks
                blocks += -(-inode.node.size // BLOCK)
        return blocks

    def _write_head(self, buffer: bytearray | mmap.mmap, blocks: int) -> list[int]:
        """The superblock and the devices; where each device begins, in blocks."""
        starts = []
        end = blocks
        for number, device in enumerate(self._devices):
            starts.append(end)
            _DEVICE.pack_into(buffer, _FIRST_DEVICE + number * _DEVICE.size, device.tag.encode(), device.blocks, end)
            end += device.blocks
        if end >= _MAX_BLOCKS:
            raise TooLarge(f"{end} blocks in one image")
        incompatible = _INCOMPAT_DEVICES if self._devices else 0
        _SUPER.pack_into(
            buffer,
            _SUPER_OFFSET,
            _MAGIC,
            0,  # no checksum
            _COMPAT_MTIME,
            BLOCK.bit_length() - 1,
            0,
            self._root.place // _SLOT,
            len(self._inodes),
            0,
            0,
            blocks,
            0,  # inode numbers count from the start of the image
            0,
            b"",
            b"wherry",
            incompatible,
            0,
            len(self._devices),
            _FIRST_DEVICE // _DEVICE.size,
            0,
            0,
            0,
            0,
        )
        return starts

    def _write(self, buffer: bytearray | mmap.mmap, inode: _Inode | Node, number: int, starts: list[int]) -> None:
        node, attributes = (inode.node, inode.attributes) if isinstance(inode, _Inode) else (inode, b"")
        place = node.place
        layout = _PLAIN
        where = node.rdev
        if isinstance(inode, _Inode) and inode.content is not None:
            where = inode.block
            data = inode.data()
            if inode.block:
                buffer[where * BLOCK : where * BLOCK + len(data)] = data
            else:
                layout = _INLINE
                start = place + _INODE.size + len(attributes)
                buffer[start : start + len(data)] = data
        elif node.size:
            where = starts[node.device] + node.offset // BLOCK
        count = (len(attributes) - _ATTRIBUTES_HEAD) // 4 + 1 if attributes else 0
        seconds, nanoseconds = divmod(node.mtime_ns, _SECOND)
        _INODE.pack_into(
            buffer,
            place,
            layout | _EXTENDED,
            count,
            node.mode,
            0,
            node.size,
            where,
            number & 0xFFFFFFFF,
            node.uid,
            node.gid,
            seconds,
            nanoseconds,
            node.links,
        )
        if attributes:
            buffer[place + _INODE.size : place + _INODE.size + len(attributes)] = attributes


class _Reader:
    def __init__(self, image: bytes | memoryview | mmap.mmap, first_device: int) -> None:
        self._image = memoryview(image)
        self._first_device = first_device
        fields = _SUPER.unpack_from(image, _SUPER_OFFSET)
        if fields[0] != _MAGIC or fields[3] != BLOCK.bit_length() - 1:
            raise ValueError("no superblock")
        self.root: int = fields[5]
        count, slot = fields[16], fields[17]
        devices = (_DEVICE.unpack_from(image, (slot + number) * _DEVICE.size) for number in range(count))
        self._starts = [start for _, _, start in devices]
        self._nodes: dict[int, Node] = {}

    def close(self) -> None:
        self._image.release()

    def tree(self) -> Node:
        root, inline = self.inode(self.root)
        pending = [(root, inline)]
        while pending:
            directory, data = pending.pop()
            children: dict[str, Node] = {}
            directory.children = children
            for raw_name, number in self.names(data):
                name = os.fsdecode(raw_name)
                node = self._nodes.get(number)
                if node is None:
                    node, content = self.inode(number)
                    if node.links > 1 and not stat.S_ISDIR(node.mode):
                        self._nodes[number] = node
                    if stat.S_ISDIR(node.mode):
                        pending.append((node, content))
                    node.links = 0
                children[name] = node
        root.links = 0
        return root

    def inode(self, number: int) -> tuple[Node, memoryview]:
        """The node, and the data of a directory or symlink."""
        place = number * _SLOT
        layout, count, mode, _, size, where, _, uid, gid, seconds, nanoseconds, links = _INODE.unpack_from(self._image, place)
        node = Node(mode, uid, gid, seconds * _SECOND + nanoseconds)
        node.links = links
        end = place + _INODE.size
        if count:
            length = _ATTRIBUTES_HEAD + (count - 1) * 4
            node.xattrs = _decode_attributes(bytes(self._image[end : end + length]))
            end += length
        start = end if layout & ~_EXTENDED == _INLINE else where * BLOCK
        data = self._image[start : start + size]
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFLNK:
            node.link = os.fsdecode(bytes(data))
        elif kind == stat.S_IFREG:
            node.size = size
            if size:
                device = bisect_right(self._starts, where) - 1
                node.device, node.offset = self._first_device + device, (where - self._starts[device]) * BLOCK
        elif kind != stat.S_IFDIR:
            node.rdev = where
        return node, data

    def names(self, data: memoryview) -> Iterator[tuple[bytes, int]]:
        for start in range(0, len(data), BLOCK):
            block = bytes(data[start : start + BLOCK])
            count = _DIRENT.unpack_from(block)[1] // _DIRENT.size
            entries = [_DIRENT.unpack_from(block, position * _DIRENT.size) for position in range(count)]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (number, offset, _), end in zip(entries, ends, strict=True):
                name = block[offset:end].rstrip(b"\0")
                if name not in (b".", b".."):
                    yield name, number


def _encode_attributes(attributes: dict[str, bytes]) -> bytes:
    parts = [bytes(_ATTRIBUTES_HEAD)]
    for name, value in sorted(attributes.items()):
        prefix, number = next((prefix, number) for prefix, number in _PREFIXES.items() if name.startswith(prefix))
        short = os.fsencode(name[len(prefix) :])
        entry = struct.pack("<BBH", len(short), number, len(value)) + short + value
        parts.append(entry + bytes(-len(entry) % 4))
    return b"".join(parts)


def _decode_attributes(data: bytes) -> dict[str, bytes]:
    attributes = {}
    position = _ATTRIBUTES_HEAD
    while position < len(data):
        length, number, size = struct.unpack_from("<BBH", data, position)
        position += 4
        name = _PREFIX_NAMES[number] + os.fsdecode(data[position : position + length])
        attributes[name] = data[position + length : position + length + size]
        position += length + size
        position += -position % 4
    return attributes
