"""Reading archives that nobody vouches for: functions that need nothing but the descriptors they are given.

They are run in a confined process of their own (``runtime/tasks.py``), or in a thread. Each takes plain arguments and descriptors, which
stay the caller's, and answers with a plain dictionary. Raises InvalidArchive, OSError.
"""

from __future__ import annotations

import io
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from wherry.tree.apply import ApplyOptions, Whiteouts, apply
from wherry.tree.compression import BadStream, decompress
from wherry.tree.erofs_builder import ROOT, Builder
from wherry.tree.erofs_format import Damaged, Device, TooLarge, packed_starts
from wherry.tree.erofs_log import write_at
from wherry.tree.erofs_merge import merge as lay_over_each_other
from wherry.tree.erofs_reader import FileImage, Index
from wherry.tree.erofs_tree import Tree, read_tree
from wherry.tree.erofs_writer import write
from wherry.tree.growing import GrowingFile
from wherry.tree.listing_tree import ListingTree
from wherry.tree.tar import BLOCK, Entry, InvalidArchive, Limits
from wherry.tree.tar_fields import is_header
from wherry.tree.tar_reader import Reader

_INPUT: Final = 512 << 10
WINDOW: Final = 64 << 10  # bytes that a header reader is shown at once
Parse = Callable[[Mapping[str, Any], Sequence[int]], dict[str, Any]]


def index(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """The EROFS index of a layer's tar.

    ``fds``: the tar, and three empty files: for its sparse files, for the index, and for what does not fit into memory meanwhile; then,
    while the tar is still written, a pipe that tells how far (`growing.MARK`). ``root``: mode, uid, gid and mtime_ns of the root directory;
    ``lowest``: no layer lies below, so whiteouts only undo what this archive had before.
    Answers ``size_bytes`` (as Docker counts), ``sparse_bytes``, ``index_sum`` (CRC-32), ``tar_bytes``.
    """
    tar_fd, sparse_fd, index_fd, scratch_fd, *marks = fds
    source = GrowingFile(tar_fd, *marks)
    builder = Builder(scratch_fd, lowest=arguments["lowest"])
    mode, *rest = arguments["root"]
    builder.describe(ROOT, stat.S_IFDIR | mode, *rest)
    tree = Tree(builder, sparse_fd=sparse_fd)
    read_tree(Reader(source, _limits(arguments)), tree)
    tree.finish(tar_fd, source.size())
    return write_index(builder, source.size(), sparse_fd, index_fd, scratch_fd)


def listing(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """What an archive holds, every name taken as it is, into an empty file: see `listing.Listing`.

    ``fds``: the tar, an empty file for its sparse files, and that for the listing; then a pipe as for `index`. Answers ``sparse_bytes``.
    """
    tar_fd, sparse_fd, listing_fd, *marks = fds
    source = GrowingFile(tar_fd, *marks)
    tree = ListingTree(sparse_fd)
    reader = Reader(source, _limits(arguments))
    for entry in reader:
        tree.add(entry, reader)
    source.size()
    write_at(listing_fd, tree.finish().encode(), 0)
    return {"sparse_bytes": os.fstat(sparse_fd).st_size}


def write_index(builder: Builder, tar_bytes: int, sparse_fd: int, index_fd: int, scratch_fd: int) -> dict[str, Any]:
    """What `index` does once all names are known.  ``scratch_fd``: the builder's."""
    sparse_bytes = os.fstat(sparse_fd).st_size
    devices = [Device(tar_bytes, "tar"), *([Device(sparse_bytes, "sparse")] if sparse_bytes else [])]
    try:
        written = write(builder, index_fd, scratch_fd, devices)
    except TooLarge as error:
        raise InvalidArchive(f"the archive needs {error}") from error
    return {"size_bytes": written.size_bytes, "sparse_bytes": sparse_bytes, "index_sum": written.index_sum, "tar_bytes": tar_bytes}


def merge(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """One index over several layers.

    ``fds``: the layers' indexes, base first, one behind the other in one file; an empty file for the merged one; and one for what does not
    fit into memory meanwhile. ``sizes``: of the indexes; ``devices``: of all of them, size and tag; ``lowest``: no layer lies below.
    Answers ``index_sum`` (CRC-32), or with ``too_large`` that there are more blocks than an index can number.
    """
    indexes_fd, merged_fd, scratch_fd = fds
    devices = [Device(size, tag) for size, tag in arguments["devices"]]
    starts = [0, *accumulate(arguments["sizes"])]
    try:
        builder = Builder(scratch_fd, packed_starts(devices))
        layers = [Index(FileImage(indexes_fd, start, size)) for start, size in zip(starts, arguments["sizes"], strict=False)]
        lay_over_each_other(builder, layers, lowest=arguments["lowest"])
        return {"index_sum": write(builder, merged_fd, scratch_fd, devices).index_sum, "too_large": False}
    except Damaged as error:
        raise InvalidArchive(str(error)) from error
    except TooLarge:
        return {"index_sum": 0, "too_large": True}


def unpack(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """The tar in the pipe ``fds[0]``, read to its end, becomes files in the directory ``fds[1]``.  ``whiteouts``: what they do."""
    with os.fdopen(os.dup(fds[0]), "rb", buffering=0) as source:
        reader = Reader(source, _limits(arguments))
        applied = apply(reader, fds[1], ApplyOptions(whiteouts=Whiteouts(arguments["whiteouts"])))
        reader.drain()
    return {"size_bytes": applied.size_bytes, "entries": applied.entries}


def plain(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """What is left of ``fds[0]``, without the compression ``kind`` (as `compression.kind_of` tells it), into ``fds[1]``.

    ``only_tar``: what does not begin as a tar is left alone.
    """
    size = BLOCK if arguments.get("only_tar") else _INPUT  # damage further on is no doubt about the kind
    with os.fdopen(os.dup(fds[0]), "rb", buffering=0) as source, os.fdopen(os.dup(fds[1]), "wb", buffering=0) as target:
        try:
            pieces = decompress(arguments["kind"], lambda: source.read(size) or b"")
            if arguments.get("only_tar"):
                head = b""
                while len(head) < BLOCK and (piece := next(pieces, b"")):
                    head += piece
                if not is_header(head[:BLOCK]):
                    return {}
                _write(target, head)
                size = _INPUT
            for data in pieces:
                _write(target, data)
        except BadStream as error:
            raise InvalidArchive(str(error)) from error
    return {}


def outline(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Tell the entries of a tar of which only the headers are seen, over the socket ``fds[0]``: see `Shown`."""
    with socket.socket(fileno=os.dup(fds[0])) as talk:
        reader = Reader(Shown(talk), _limits(arguments))
        count = 0
        for entry in reader:
            count += 1
            talk.sendall(json.dumps({"entry": _fields(entry), "offset": reader.offset, "size": reader.remaining}).encode())
    return {"entries": count}


class Shown:
    """A `tar.Skipping` source whose bytes are asked for, one message each way.

    ``{"want": [position, size]}`` is answered with up to `WINDOW` bytes from there (none at the end), ``{"skip": position}`` with how many
    bytes are missing until there, as a number. Positions never go back.
    """

    def __init__(self, talk: socket.socket) -> None:
        self._talk = talk
        self._position = 0

    def read(self, size: int, /) -> bytes:
        self._talk.sendall(json.dumps({"want": [self._position, min(size, WINDOW)]}).encode())
        data = self._talk.recv(WINDOW + 1)[1:]  # an empty message would look like the end of the talk
        self._position += len(data)
        return data

    def skip(self, size: int) -> int:
        self._position += size
        self._talk.sendall(json.dumps({"skip": self._position}).encode())
        return size - int(self._talk.recv(32))


def _write(out: io.RawIOBase, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) or 0 :]


def _fields(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind.value.decode(),
        "mode": entry.mode,
        "size": entry.size,
        "link": entry.link,
        "sparse": entry.segments is not None,
    }


def _limits(arguments: Mapping[str, Any]) -> Limits:
    return Limits(**arguments.get("limits", {}))


PARSERS: dict[str, Parse] = {"index": index, "listing": listing, "merge": merge, "unpack": unpack, "plain": plain, "outline": outline}
