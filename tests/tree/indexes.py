"""Indexes of archives, made and read back in tests."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wherry.tree import parsing
from wherry.tree.erofs_image import decode
from wherry.tree.erofs_node import Node, walk

ROOT = [0o755, 0, 0, 0]


def index_of(tar: bytes, *, lowest: bool = False, root: Sequence[int] = ROOT) -> bytes:
    with files(4) as fds:
        os.write(fds[0], tar)
        parsing.index({"root": root, "lowest": lowest}, fds)
        return content(fds[2])


def tree_of(tar: bytes, *, lowest: bool = False) -> Node:
    return decode(index_of(tar, lowest=lowest))


def merged(indexes: Sequence[bytes], devices: Sequence[Sequence[tuple[int, str]]], *, lowest: bool) -> bytes:
    """``devices``: of each index, size and tag."""
    with files(3) as fds:
        os.write(fds[0], b"".join(indexes))
        flat = [device for one in devices for device in one]
        found = parsing.merge({"sizes": [len(index) for index in indexes], "devices": flat, "lowest": lowest}, fds)
        assert not found["too_large"]
        return content(fds[1])


@contextmanager
def files(count: int) -> Iterator[list[int]]:
    """Empty files without names."""
    with ExitStack() as stack:
        yield [stack.enter_context(tempfile.TemporaryFile()).fileno() for _ in range(count)]


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def names(root: Node) -> set[str]:
    """All paths, a whiteout's with ``!`` and an opaque directory's with ``~`` behind it."""
    found = set()
    pending = [("", root)]
    while pending:
        path, node = pending.pop()
        for name, child in (node.children or {}).items():
            mark = "!" if child.is_whiteout else "~" if child.is_opaque else ""
            found.add(f"{path}{name}{mark}")
            pending.append((f"{path}{name}/", child))
    return found


def size_of(root: Node) -> int:
    """Files once each and the text of symlinks."""
    nodes = {id(node): node for node in walk(root)}.values()
    return sum(len(os.fsencode(node.link)) or node.size for node in nodes if stat.S_ISREG(node.mode) or node.link)
