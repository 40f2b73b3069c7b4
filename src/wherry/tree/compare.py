"""Which paths differ between two trees, the second having begun as a copy of the first."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from wherry.kernel import files

_PIECE = 1 << 20


class Kind(IntEnum):
    CHANGED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """``path`` is relative to the root."""

    path: str
    kind: Kind


def compare(old_fd: int | None, new_fd: int) -> list[Difference]:
    """What differs, sorted by path; a directory that holds a difference is itself changed.

    Files are the same when type, owner, mode, size and time are, as Docker decides.  ``old_fd`` None: everything was added.
    """
    found = dict(_walk(old_fd, new_fd))
    for path in list(found):
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in found:
                break
            found[path] = Kind.CHANGED
    return [Difference(path=path, kind=found[path]) for path in sorted(found, key=lambda path: path.split("/"))]


def _walk(old_fd: int | None, new_fd: int) -> Iterator[tuple[str, Kind]]:
    pending = [("", old_fd is not None)]
    while pending:
        directory, had_old = pending.pop()
        new = _list(new_fd, directory)
        old = _list(old_fd, directory) if had_old and old_fd is not None else {}
        for name in old.keys() - new.keys():
            yield _join(directory, name), Kind.DELETED
        for name, status in new.items():
            path = _join(directory, name)
            if not files.has_name(path):
                continue
            before = old.get(name)
            if before is None:
                yield path, Kind.ADDED
            elif _differs(before, status):
                yield path, Kind.CHANGED
            if stat.S_ISDIR(status.st_mode):
                pending.append((path, before is not None and stat.S_ISDIR(before.st_mode)))


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _list(root_fd: int, path: str) -> dict[str, os.stat_result]:
    fd = files.open_beneath(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {name: os.stat(name, dir_fd=fd, follow_symlinks=False) for name in os.listdir(fd)}
    finally:
        os.close(fd)


def _differs(old: os.stat_result, new: os.stat_result) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    return not stat.S_ISDIR(new.st_mode) and (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns)


def same_bytes(first: str, second: str) -> bool:
    """Whether two files hold the same; holes are passed over."""
    with open(first, "rb") as one, open(second, "rb") as other:
        if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
            return False
        return all(
            os.pread(one.fileno(), length, offset) == os.pread(other.fileno(), length, offset)
            for fd in (one.fileno(), other.fileno())
            for offset, length in _extents(fd)
        )


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, in pieces."""
    end = 0
    size = os.fstat(fd).st_size
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), start + _PIECE)
        yield start, end - start
