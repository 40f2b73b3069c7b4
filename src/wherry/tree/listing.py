"""What an archive holds, as columns: one row for each name and one for each inode, and where the bytes of files lie.

A confined process makes it (`listing_tree`) and hands it over as bytes, which whoever reads them need not believe. A few numbers and a name
for each file are held, no object: for many files that is a quarter of what a tree of them takes.
"""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import add
from typing import Final

from wherry.tree.apply import is_portable_attribute
from wherry.tree.tar import InvalidArchive

PATH_BYTES: Final = 4095  # of a path below the root: more no system call takes
_SIZES: Final = struct.Struct("<13Q")  # of the columns, in bytes
_NO_NAMES: Final = frozenset(("", ".", ".."))
_ALL_PATHS_BYTES: Final = 1 << 30  # of all paths together: a few deep directories in each other are short in an archive


class Listing:
    """Rows of names come parents first, those of a directory in order; ``depths``: how many directories each is in.

    By row: ``names``, ``depths``, ``inodes`` (a name's inode) and ``ends`` (the first row behind all that is in it, where it is a
    directory). By inode: ``modes`` with the type, ``sizes`` of regular files, ``times_ns``, and ``devices`` and ``offsets`` of their bytes;
    few have ``links`` (a symlink's text) or ``attributes`` (name and value in hexadecimal), or are ``shared`` by several names.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.depths = array("H")
        self.inodes = array("I")
        self.ends = array("I")
        self.modes = array("H")
        self.sizes = array("Q")
        self.times_ns = array("q")
        self.devices = array("B")
        self.offsets = array("Q")
        self.shared: set[int] = set()
        self.links: dict[int, str] = {}
        self.attributes: dict[int, tuple[tuple[str, str], ...]] = {}

    def inside(self, row: int) -> Iterator[int]:
        """The rows of what is in a directory, not deeper; -1 is the root."""
        inner, end = row + 1, self.ends[row] if row >= 0 else len(self.names)
        while inner < end:
            yield inner
            inner = self.ends[inner]

    def is_directory(self, row: int) -> bool:
        return row < 0 or stat.S_ISDIR(self.modes[self.inodes[row]])

    def encode(self) -> bytes:
        attributes = [(inode, name, value) for inode, pairs in self.attributes.items() for name, value in pairs]
        columns = (
            _joined(self.names),
            self.depths.tobytes(),
            self.inodes.tobytes(),
            self.modes.tobytes(),
            self.sizes.tobytes(),
            self.times_ns.tobytes(),
            self.devices.tobytes(),
            self.offsets.tobytes(),
            array("I", self.shared).tobytes(),
            array("I", self.links).tobytes(),
            _joined(self.links.values()),
            array("I", (inode for inode, _, _ in attributes)).tobytes(),
            _joined(chain.from_iterable((name, value) for _, name, value in attributes)),
        )
        return b"".join((_SIZES.pack(*map(len, columns)), *columns))


def decode(data: bytes, device_sizes: Sequence[int]) -> Listing:
    """``device_sizes``: of the files that hold the bytes.  Raises InvalidArchive for what is none, or names bytes that aren't there."""
    try:
        listing = _columns(data)
        _check_inodes(listing, device_sizes)
        _check_names(listing)
    except (ValueError, IndexError, struct.error) as error:
        raise InvalidArchive(f"not a listing of an archive: {error}") from error
    return listing


def _columns(data: bytes) -> Listing:
    listing = Listing()
    sizes_bytes = _SIZES.unpack_from(data)
    if sum(sizes_bytes) + _SIZES.size != len(data):
        raise ValueError("of another length")
    view, parts = memoryview(data)[_SIZES.size :], []
    for size in sizes_bytes:
        parts.append(view[:size])
        view = view[size:]
    names, depths, inodes, modes, sizes, times, devices, offsets, shared, linked, links, attributed, attributes = parts
    listing.names = _parted(names)
    if b"/" in bytes(names):
        raise ValueError("names that are none")
    for column, part in (
        (listing.depths, depths),
        (listing.inodes, inodes),
        (listing.modes, modes),
        (listing.sizes, sizes),
        (listing.times_ns, times),
        (listing.devices, devices),
        (listing.offsets, offsets),
    ):
        column.frombytes(part)
    listing.shared = set(_numbers(shared))
    listing.links = dict(zip(_numbers(linked), _parted(links), strict=True))
    pairs = _parted(attributes)
    for inode, name, value in zip(_numbers(attributed), pairs[::2], pairs[1::2], strict=True):
        if not is_portable_attribute(name) or bytes.fromhex(value).hex() != value:
            raise ValueError("an attribute that is none")
        listing.attributes[inode] = (*listing.attributes.get(inode, ()), (name, value))
    return listing


def _check_inodes(listing: Listing, device_sizes: Sequence[int]) -> None:
    count = len(listing.modes)
    if {len(column) for column in (listing.sizes, listing.times_ns, listing.devices, listing.offsets)} - {count}:
        raise ValueError("columns of different lengths")
    if max(chain(listing.inodes, listing.shared, listing.links, listing.attributes), default=-1) >= count:
        raise ValueError("an inode that is not there")
    ends = map(add, listing.offsets, listing.sizes)
    if any(end > device_sizes[device] for end, device in zip(ends, listing.devices, strict=True)):
        raise ValueError("a file that lies outside of the archive")


def _check_names(listing: Listing) -> None:
    """Find the ``ends``, and that the rows are a tree of names that may be paths."""
    names, modes, inodes = listing.names, listing.modes, listing.inodes
    if not len(names) == len(listing.depths) == len(inodes) or not _NO_NAMES.isdisjoint(names):
        raise ValueError("names that are none")
    ends = listing.ends = array("I", range(1, len(names) + 1))
    former: list[str] = [""]  # at each depth the last name
    lengths = [-1]  # of the path that a depth's names are appended to
    folders: list[int] = []  # rows of the directories that the last row is in, and of itself when it is one
    total = 0
    for row, (name, depth, inode) in enumerate(zip(names, listing.depths, inodes, strict=True)):
        if depth > len(folders):
            raise ValueError("a name in what is no directory")
        while len(folders) > depth:
            ends[folders.pop()] = row
        if len(former) > depth + 1:
            del former[depth + 1 :], lengths[depth + 1 :]
        if name <= former[depth]:
            raise ValueError("names that are not in order")
        former[depth] = name
        length = lengths[depth] + 1 + (len(name) if name.isascii() else len(_raw(name)))
        total += length
        if length > PATH_BYTES or total > _ALL_PATHS_BYTES:
            raise ValueError("paths that are too long")
        if stat.S_ISDIR(modes[inode]):
            folders.append(row)
            former.append("")
            lengths.append(length)
    for row in folders:
        ends[row] = len(names)


def _numbers(data: memoryview) -> array[int]:
    column = array("I")
    column.frombytes(data)
    return column


def _joined(texts: Iterable[str]) -> bytes:
    """No name of a file, text of a symlink or attribute contains a zero."""
    return _raw("\0".join(chain(texts, ("",))))


def _parted(data: memoryview) -> list[str]:
    *texts, rest = str(data, "utf-8", "surrogateescape").split("\0")
    if rest:
        raise ValueError("a text without an end")
    return texts


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
