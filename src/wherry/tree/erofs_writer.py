"""An EROFS image from what an `erofs_builder.Builder` holds, written once from front to back.

First come the root directory and the files that have several names, then a table of all other directories, then for each directory its
files' inodes and behind them its names. What is held in memory is a few numbers for each directory and each file with several names.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from wherry.tree.apply import OVERLAY_OPAQUE
from wherry.tree.erofs_builder import ASKED, FILE, IMPLIED, LINK, MADE, NUMBER, ROOT, Builder
from wherry.tree.erofs_format import (
    BLOCK,
    COMPAT_MTIME,
    DEVICE,
    DIRECTORY_TYPE,
    DIRENT,
    EXTENDED,
    FIRST_DEVICE,
    IMAGE_BLOCKS,
    INCOMPAT_DEVICES,
    INLINE,
    INODE,
    MAGIC,
    MAX_BLOCKS,
    SLOT,
    SUPER,
    SUPER_OFFSET,
    TYPES,
    Device,
    TooLarge,
    attributes_length,
    encode_attributes,
    pack_inode,
)
from wherry.tree.erofs_log import write_at
from wherry.tree.tar import InvalidArchive

_CHUNK: Final = 1 << 20
_LOW: Final = 0xFFFFFFFF
_LAYOUT: Final = slice(0, 2)  # fields of an inode
_ATTRIBUTES: Final = slice(2, 4)
_MODE_HIGH: Final = 5
_SIZE: Final = slice(8, 16)
_WHERE: Final = slice(16, 20)
_LINKS: Final = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """``size_bytes``: files once each and the text of symlinks, as Docker counts a layer; ``index_sum``: CRC-32 of the image."""

    size_bytes: int
    index_sum: int


def write(builder: Builder, index_fd: int, scratch_fd: int, devices: Sequence[Device]) -> Written:
    """Write the image to the empty file ``index_fd``.  ``scratch_fd``: the builder's.

    Raises TooLarge, InvalidArchive, OSError.
    """
    return _Writer(builder, index_fd, scratch_fd).write(devices)


class _Writer:
    def __init__(self, builder: Builder, index_fd: int, scratch_fd: int) -> None:
        self._builder = builder
        self._fd = index_fd
        self._scratch_fd = scratch_fd
        place = FIRST_DEVICE + len(builder.starts) * DEVICE.size
        place += -place % SLOT
        self._numbers = array("I", [place // SLOT])  # the inodes of directories
        self._stream = _Stream(index_fd, place + INODE.size + len(encode_attributes(builder.attributes.get(ROOT))))
        self._stream.align(SLOT)
        self._links = array("Q")  # the record of each link, and that of what it names
        self._shared = array("Q")  # the record of each file with links, and what a name tells of it
        self._counts = array("I")
        self._inodes = 0
        self._size_bytes = 0

    def write(self, devices: Sequence[Device]) -> Written:
        if self._builder.unsettled:
            self._settle()
        self._write_directories()
        self._count_links()
        self._stream.align(BLOCK)
        self._stream.flush()
        blocks = self._stream.position // BLOCK
        self._write_head(blocks, devices)
        return Written(size_bytes=self._size_bytes, index_sum=_checksum(self._fd, blocks * BLOCK))

    # -- what only the order of records tells

    def _settle(self) -> None:
        """Answer links, find directories that hide what lies below, and files that were used as directories."""
        for head, records in groupby(self._builder.log, key=_head):
            now = _Now()
            for record in records:
                self._follow(now, record[len(head) + 1 :])
        self._shared = array("Q", sorted(self._shared))
        self._counts = array("I", bytes(4 * len(self._shared)))
        self._links = array("Q", sorted(self._links))
        for position, link in enumerate(self._links):  # a link to a link, made before it, names the same file
            if (former := _find(self._links, link & _LOW)) >= 0:
                self._links[position] = link & ~_LOW | self._links[former] & _LOW

    def _follow(self, now: _Now, record: bytes) -> None:
        kind, rest = record[4], record[5:]
        if kind == ASKED:
            if not now.is_file or now.is_whiteout:
                raise InvalidArchive(os.fsdecode(rest[4:]))
            target = _number(now.record)
            if now.record[4] == FILE and not now.is_placed:
                self._shared.append(target << 32 | self._place(self._inode(now.record)))
                now.is_placed = True
            self._links.append(_number(rest) << 32 | target)
            return
        if kind == IMPLIED and now.is_file:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(rest[4:]))
        if kind == MADE and now.is_whiteout and not self._builder.lowest:
            self._builder.set_attributes(_number(rest), {OVERLAY_OPAQUE: b"y"})
        now.record, now.is_placed = record, False

    # -- what is written in one go

    def _write_directories(self) -> None:
        table_at = self._stream.position
        end = self._number_directories(table_at)
        self._stream.flush()
        table, self._stream = _Stream(self._fd, table_at), _Stream(self._fd, end)
        alive = bytearray(len(self._numbers))
        alive[ROOT] = True
        groups = groupby(_last_of_each(self._builder.log), key=_directory)
        found = next(groups, None)
        for directory in range(len(self._numbers)):
            names: Iterable[tuple[bytes, bytes]] = ()
            if found is not None and found[0] == directory:
                names = found[1]
            if alive[directory]:
                inode = self._write_directory(directory, names, alive)
                if directory == ROOT:
                    write_at(self._fd, inode, self._numbers[ROOT] * SLOT)
                else:
                    table.align_to(self._numbers[directory] * SLOT)
                    table.write(inode)
            if names:
                found = next(groups, None)
        table.flush()

    def _number_directories(self, place: int) -> int:
        """Give every directory but the root a place in the table that begins at ``place``; where it ends."""
        attributes = self._builder.attributes
        for directory in range(1, len(self._builder.parents)):
            self._numbers.append(place // SLOT)
            place += INODE.size
            if directory in attributes:
                place += len(encode_attributes(attributes[directory]))
                place += -place % SLOT
        return place

    def _write_directory(self, directory: int, names: Iterable[tuple[bytes, bytes]], alive: bytearray) -> bytes:
        """The inodes of what is in it, and its names; returns its own inode."""
        builder = self._builder
        own, above = (self._numbers[number] << 3 | DIRECTORY_TYPE for number in (directory, builder.parents[directory]))
        content = _Content(self._scratch_fd, builder.log.end)
        dots = [(b"..", above), (b".", own)]
        links = 2
        for head, record in names:
            name = head[4:]
            while dots and dots[-1][0] < name:
                content.add(*dots.pop())
            kind = record[4]
            if kind == FILE:
                if builder.lowest and _is_whiteout(record[5:]):
                    continue
                told = self._file(record)
            elif kind == LINK:
                told = self._named_again(_number(record))
            else:
                inner = _number(record[5:])
                alive[inner] = True
                links += 1
                told = self._numbers[inner] << 3 | DIRECTORY_TYPE
            content.add(name, told)
        while dots:
            content.add(*dots.pop())
        self._inodes += 1
        self._stream.align(BLOCK)
        where = self._stream.position // BLOCK
        size = content.finish(self._stream)
        self._stream.write(b"\0")  # the kernel looks for the last name's end
        self._stream.align(SLOT)
        facts = builder.modes[directory], builder.uids[directory], builder.gids[directory], builder.times_ns[directory]
        return pack_inode(*facts, size, where, encode_attributes(builder.attributes.get(directory)), links)

    def _file(self, record: bytes) -> int:
        if self._shared and (position := _find(self._shared, _number(record))) >= 0:
            self._counts[position] += 1
            return self._shared[position] & _LOW
        inode = self._inode(record)
        self._inodes += 1
        self._size_bytes += _size_of(inode)
        return self._place(inode)

    def _named_again(self, number: int) -> int:
        """A link, by its record."""
        position = _find(self._shared, self._links[_find(self._links, number)] & _LOW)
        self._counts[position] += 1
        return self._shared[position] & _LOW

    def _inode(self, record: bytes) -> bytes:
        amended = self._builder.amended
        return (amended.get(_number(record)) if amended else None) or record[5:]

    def _place(self, inode: bytes) -> int:
        """Write what is no directory; what its names tell: its number and type."""
        stream = self._stream
        if len(inode) == INODE.size:  # nearly all, and as long as two slots
            place = stream.position
            stream.write(inode)
        else:
            inode = self._with_target(inode)
            place = stream.position
            stream.write(inode)
            stream.align(SLOT)
        return place // SLOT << 3 | TYPES[inode[_MODE_HIGH] >> 4]

    def _with_target(self, inode: bytes) -> bytes:
        """The bytes of an inode with attributes, or of a symlink, whose target lies behind it where both fit into a block."""
        head = INODE.size + attributes_length(int.from_bytes(inode[_ATTRIBUTES], "little"))
        size = len(inode) - head
        if not size:
            return inode
        changed = bytearray(inode)
        if (self._stream.position + head) % BLOCK + size > BLOCK:
            self._stream.align(BLOCK)
            if head % BLOCK + size > BLOCK:
                changed[_WHERE] = (self._stream.position // BLOCK).to_bytes(4, "little")
                self._stream.write(changed[head:])
                self._stream.align(SLOT)
                return bytes(changed[:head])
        changed[_LAYOUT] = (INLINE | EXTENDED).to_bytes(2, "little")
        return bytes(changed)

    def _count_links(self) -> None:
        """What a file with several names is counted for, and how many of them there are, is known last."""
        self._stream.flush()
        for told, count in zip(self._shared, self._counts, strict=True):
            if not count:
                continue
            place = (told & _LOW) >> 3
            self._inodes += 1
            self._size_bytes += _size_of(os.pread(self._fd, INODE.size, place * SLOT))
            if count > 1:
                write_at(self._fd, count.to_bytes(4, "little"), place * SLOT + _LINKS)

    def _write_head(self, blocks: int, devices: Sequence[Device]) -> None:
        head = bytearray(FIRST_DEVICE + len(devices) * DEVICE.size)
        ends = [*self._builder.starts[1 : len(devices)], MAX_BLOCKS]
        for number, (device, start, end) in enumerate(zip(devices, self._builder.starts, ends, strict=False)):
            if start + device.blocks > end:
                raise TooLarge(f"{device.size_bytes} bytes in one device of an image")
            DEVICE.pack_into(head, FIRST_DEVICE + number * DEVICE.size, device.tag.encode(), device.blocks, start)
        SUPER.pack_into(
            head,
            SUPER_OFFSET,
            MAGIC,
            0,  # no checksum
            COMPAT_MTIME,
            BLOCK.bit_length() - 1,
            0,
            self._numbers[ROOT],
            self._inodes,
            0,
            0,
            blocks,
            0,  # inode numbers count from the start of the image
            0,
            b"",
            b"wherry",
            INCOMPAT_DEVICES if devices else 0,
            0,
            len(devices),
            FIRST_DEVICE // DEVICE.size,
            0,
            0,
            0,
            0,
        )
        write_at(self._fd, head, 0)


class _Now:
    """What a name stands for, record after record."""

    __slots__ = ("is_placed", "record")

    def __init__(self) -> None:
        self.record = b""
        self.is_placed = False

    @property
    def is_file(self) -> bool:
        return bool(self.record) and self.record[4] in (FILE, LINK)

    @property
    def is_whiteout(self) -> bool:
        return bool(self.record) and self.record[4] == FILE and _is_whiteout(self.record[5:])


class _Stream:
    """Writes to a file from a position on, in large pieces."""

    def __init__(self, fd: int, position: int) -> None:
        self._fd = fd
        self._begun = position
        self._buffer = bytearray()

    @property
    def position(self) -> int:
        return self._begun + len(self._buffer)

    def write(self, data: bytes | bytearray) -> None:
        self._buffer += data
        if len(self._buffer) >= _CHUNK:
            self.flush()

    def align(self, size: int) -> None:
        self._buffer += bytes(-self.position % size)

    def align_to(self, position: int) -> None:
        self._buffer += bytes(position - self.position)

    def flush(self) -> None:
        if self.position > IMAGE_BLOCKS * BLOCK:
            raise TooLarge(f"an image of more than {IMAGE_BLOCKS * BLOCK >> 20} MiB")
        write_at(self._fd, self._buffer, self._begun)
        self._begun += len(self._buffer)
        self._buffer = bytearray()


class _Content:
    """The names of a directory, cut into blocks: for each its entries, then their names.  A large one waits in the file ``scratch_fd``."""

    def __init__(self, scratch_fd: int, scratch_at: int) -> None:
        self._scratch_fd = scratch_fd
        self._scratch_at = scratch_at
        self._spilled = 0
        self._data = bytearray()
        self._names: list[bytes] = []
        self._told: list[int] = []
        self._used = 0

    def add(self, name: bytes, told: int) -> None:
        """Names come in the order of their bytes.  ``told``: an inode's number, and its type in the last three bits."""
        needed = DIRENT.size + len(name)
        if self._used + needed > BLOCK:
            self._end_block()
            self._data += bytes(-len(self._data) % BLOCK)
            if len(self._data) >= _CHUNK:
                write_at(self._scratch_fd, self._data, self._scratch_at + self._spilled)
                self._spilled += len(self._data)
                self._data = bytearray()
        self._used += needed
        self._names.append(name)
        self._told.append(told)

    def finish(self, out: _Stream) -> int:
        """Write it all to ``out``; the number of bytes."""
        self._end_block()
        for start in range(0, self._spilled, _CHUNK):
            out.write(os.pread(self._scratch_fd, min(_CHUNK, self._spilled - start), self._scratch_at + start))
        out.write(self._data)
        return self._spilled + len(self._data)

    def _end_block(self) -> None:
        offset = len(self._names) * DIRENT.size
        for name, told in zip(self._names, self._told, strict=True):
            self._data += DIRENT.pack(told >> 3, offset, told & 7)
            offset += len(name)
        self._data += b"".join(self._names)
        self._names, self._told, self._used = [], [], 0


def _last_of_each(log: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """For each directory and name (together) the last record that changes what it stands for, without these."""
    head, last = b"", b""
    for record in log:
        end = record.index(0, NUMBER.size)
        if record[end + 5] == ASKED:
            continue
        if last and record[:end] != head:
            yield head, last[len(head) + 1 :]
        head, last = record[:end], record
    if last:
        yield head, last[len(head) + 1 :]


def _head(record: bytes) -> bytes:
    return record[: record.index(0, NUMBER.size)]


def _directory(found: tuple[bytes, bytes]) -> int:
    return _number(found[0])


def _number(data: bytes) -> int:
    return int.from_bytes(data[: NUMBER.size], "big")


def _size_of(inode: bytes) -> int:
    """Bytes that count as the layer's."""
    return int.from_bytes(inode[_SIZE], "little")


def _is_whiteout(inode: bytes) -> bool:
    return stat.S_ISCHR(inode[_MODE_HIGH] << 8) and not any(inode[_WHERE])


def _find(pairs: array[int], number: int) -> int:
    """Where in the sorted ``pairs`` the one is whose upper half is ``number``; -1: nowhere."""
    position = bisect_left(pairs, number << 32)
    return position if position < len(pairs) and pairs[position] >> 32 == number else -1


def _checksum(fd: int, size_bytes: int) -> int:
    found = 0
    for start in range(0, size_bytes, _CHUNK):
        found = zlib.crc32(os.pread(fd, min(_CHUNK, size_bytes - start), start), found)
    return found
