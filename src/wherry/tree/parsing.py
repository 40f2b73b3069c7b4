"""Reading archives that nobody vouches for: functions that need nothing but the descriptors they are given.

They are run in a confined process of their own (``runtime/tasks.py``), or in a thread. Each takes plain arguments and descriptors, which
stay the caller's, and answers with a plain dictionary. Raises InvalidArchive, OSError.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import shutil
import socket
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wherry.tree import erofs_image as image
from wherry.tree.apply import ApplyOptions, Whiteouts, apply
from wherry.tree.compression import BadStream, decompress
from wherry.tree.erofs_tree import BLOCK, SPARSE, TAR, Node, new_directory, read_tree, sizes, walk
from wherry.tree.growing import GrowingFile
from wherry.tree.tar import Entry, InvalidArchive, Limits
from wherry.tree.tar_fields import is_header
from wherry.tree.tar_reader import Reader

_INPUT: Final = 512 << 10
WINDOW: Final = 64 << 10  # bytes that a header reader is shown at once
Parse = Callable[[Mapping[str, Any], Sequence[int]], dict[str, Any]]


def index(arguments: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """The EROFS index of a layer's tar.

    ``fds``: the tar, an empty file for its sparse files, an empty file for the index, and while the tar is still written a pipe that
    tells how far (`growing.MARK`). ``root``: mode, uid, gid and mtime_ns of the root directory; ``lowest``: no layer lies below;
    ``literal``: a name like a whiteout's is a name.
    Answers ``size_bytes`` (as Docker counts), ``sparse_bytes``, ``index_sum`` (CRC-32), ``tar_bytes``.
    """
    tar_fd, sparse_fd, index_fd, *marks = fds
    source = GrowingFile(tar_fd, *marks)
    reader, root = Reader(source, _limits(arguments)), new_directory(*arguments["root"])
    tree = read_tree(reader, root, lowest=arguments["lowest"], sparse_fd=sparse_fd, literal=arguments.get("literal", False))
    return write_index(tree.root, tar_fd, source.size(), sparse_fd, index_fd)


def write_index(root: Node, tar_fd: int, tar_bytes: int, sparse_fd: int, index_fd: int) -> dict[str, Any]:
    """The last part of `index`, for a tree that is known."""
    _move_end(root, tar_fd, tar_bytes, sparse_fd)
    size_bytes = sizes(root)
    sparse_bytes = os.fstat(sparse_fd).st_size
    devices = [image.Device(tar_bytes, "tar"), *([image.Device(sparse_bytes, "sparse")] if sparse_bytes else [])]
    index_sum = zlib.crc32(image.encode_into(root, devices, lambda size: _mapped(index_fd, size)))
    return {"size_bytes": size_bytes, "sparse_bytes": sparse_bytes, "index_sum": index_sum, "tar_bytes": tar_bytes}


def _mapped(fd: int, size: int) -> mmap.mmap:
    """An empty file, made so long: what is written to it is not held in memory as well."""
    os.posix_fallocate(fd, 0, size)  # a full disk must be an error here, not a signal at the first write
    return mmap.mmap(fd, size)


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


def _move_end(root: Node, tar_fd: int, tar_bytes: int, sparse_fd: int) -> None:
    """A tar may end in the middle of a block, which can't be read as one: the file that ends there is copied out."""
    rest = tar_bytes % BLOCK
    if not rest:
        return
    for node in walk(root):
        if stat.S_ISREG(node.mode) and node.device == TAR and node.offset + node.size > tar_bytes - rest:
            with os.fdopen(os.dup(tar_fd), "rb") as tar, os.fdopen(os.dup(sparse_fd), "r+b") as copy:
                tar.seek(node.offset)
                node.device, node.offset = SPARSE, copy.seek(0, os.SEEK_END)
                shutil.copyfileobj(tar, copy)
                copy.truncate(node.offset + node.size + -node.size % BLOCK)


PARSERS: dict[str, Parse] = {"index": index, "unpack": unpack, "plain": plain, "outline": outline}
