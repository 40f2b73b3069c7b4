"""The layout of EROFS images that hold names and inodes only: the bytes of files lie elsewhere, on further devices.

Blocks have 512 bytes, so that a file's bytes in a tar begin with a block. All is in the uncompressed layout: one extended inode of 64 bytes
and its attributes for each node. Devices have places of their own far behind the image, in one space of block numbers, so that an inode
can be written before it is known how long the image and the devices become.  Source: Linux, fs/erofs/erofs_fs.h;
Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 512
SLOT: Final = 32  # an inode's number counts these
MAGIC: Final = 0xE0F5E1E2
SUPER_OFFSET: Final = 1024
DEVICE: Final = struct.Struct("<64sII56x")
SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
DIRENT: Final = struct.Struct("<QHBx")
COMPAT_MTIME: Final = 0x2
INCOMPAT_DEVICES: Final = 0x8
EXTENDED: Final = 1
PLAIN: Final = 0 << 1
INLINE: Final = 2 << 1
FIRST_DEVICE: Final = SUPER_OFFSET + SUPER.size
IMAGE_BLOCKS: Final = 1 << 22  # an image may have 2 GiB; there the devices begin
MAX_BLOCKS: Final = 1 << 32
OWN_STARTS: Final = (IMAGE_BLOCKS, 1 << 31)  # where a layer's tar and its sparse files begin, whatever their sizes
_ATTRIBUTES_HEAD: Final = 12
_PREFIXES: Final = {"user.": 1, "trusted.": 4, "security.": 6}
_PREFIX_NAMES: Final = {number: prefix for prefix, number in _PREFIXES.items()}
_SECOND: Final = 1_000_000_000
_TYPES: Final = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFLNK: 7}
TYPES: Final = bytes(_TYPES.get(high << 12, 0) for high in range(16))  # what a name tells of its inode, by the mode's highest bits
DIRECTORY_TYPE: Final = _TYPES[stat.S_IFDIR]


class TooLarge(ValueError):
    """More blocks than an image can number."""


class Damaged(ValueError):
    """The bytes are not an image of ours."""


@dataclass(frozen=True, slots=True)
class Device:
    """A file that holds bodies.  ``tag``: 64 ASCII characters that name it."""

    size_bytes: int
    tag: str

    @property
    def blocks(self) -> int:
        return -(-self.size_bytes // BLOCK)


def packed_starts(devices: Sequence[Device]) -> list[int]:
    """The first block of each of the devices, one behind the other.  Raises TooLarge."""
    starts = [IMAGE_BLOCKS]
    for device in devices:
        starts.append(starts[-1] + device.blocks)
    if starts[-1] > MAX_BLOCKS:
        raise TooLarge(f"{starts[-1]} blocks in one image")
    return starts[:-1]


def pack_inode(
    mode: int, uid: int, gid: int, mtime_ns: int, size: int = 0, where: int = 0, attributes: bytes = b"", links: int = 1
) -> bytes:
    """An inode in the plain layout, its attributes behind it.  ``where``: the first block, or a device node's number."""
    seconds, nanoseconds = divmod(mtime_ns, _SECOND)
    count = (len(attributes) - _ATTRIBUTES_HEAD) // 4 + 1 if attributes else 0
    return INODE.pack(PLAIN | EXTENDED, count, mode, 0, size, where, 0, uid, gid, seconds, nanoseconds, links) + attributes


def attributes_length(count: int) -> int:
    """How many bytes an inode's attributes take, from what the inode tells of them."""
    return _ATTRIBUTES_HEAD + (count - 1) * 4 if count else 0


def nanoseconds(seconds: int, rest: int) -> int:
    return seconds * _SECOND + rest


def encode_attributes(attributes: Mapping[str, bytes] | None) -> bytes:
    if not attributes:
        return b""
    parts = [bytes(_ATTRIBUTES_HEAD)]
    for name, value in sorted(attributes.items()):
        prefix, number = next((prefix, number) for prefix, number in _PREFIXES.items() if name.startswith(prefix))
        short = os.fsencode(name[len(prefix) :])
        entry = struct.pack("<BBH", len(short), number, len(value)) + short + value
        parts.append(entry + bytes(-len(entry) % 4))
    return b"".join(parts)


def decode_attributes(data: bytes) -> dict[str, bytes]:
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
