"""How many bytes a tree holds."""

from __future__ import annotations

import errno
import os
import stat

from wherry.kernel import files

_PASSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # changed meanwhile, or deeper than a path can say


def tree_bytes(root_fd: int) -> int:
    """Files once each and the text of symlinks below ``root_fd``, as Docker counts a layer; a tree that changes meanwhile is no error."""
    total = 0
    linked: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        path = pending.pop()
        try:
            fd = files.open_beneath(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _PASSING:
                continue
            raise
        try:
            for name in os.listdir(fd):
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append(f"{path}/{name}" if path else name)
                elif status.st_nlink == 1:
                    total += status.st_size
                elif (status.st_dev, status.st_ino) not in linked:
                    linked.add((status.st_dev, status.st_ino))
                    total += status.st_size
        finally:
            os.close(fd)
    return total


def disk_bytes(path: str, seen: set[tuple[int, int]]) -> int:
    """What a file or directory takes of the disk, as du counts: blocks, each inode once (``seen`` holds them)."""
    total = 0
    pending = [path]
    while pending:
        current = pending.pop()
        try:
            status = os.lstat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(current) as entries:
                    pending += [entry.path for entry in entries]
        except OSError as error:
            if error.errno not in _PASSING:
                raise
    return total
