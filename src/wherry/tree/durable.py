"""Make a small tree survive a power cut."""

from __future__ import annotations

import os
import stat

from wherry.kernel import files


def sync_small_tree(root_fd: int, limit: int) -> bool:
    """Sync every file and directory below ``root_fd``; False, and nothing done, when there are more than ``limit``, or some too deep.

    Symlinks and nodes are part of their directory. Sync the name of the root itself separately.
    """
    directories = [""]
    regular: list[tuple[str, str]] = []
    for path in directories:
        fd = files.open_beneath(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in os.listdir(fd):
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                inner = f"{path}/{name}" if path else name
                if not files.has_name(inner):
                    return False
                if stat.S_ISDIR(mode):
                    directories.append(inner)
                elif stat.S_ISREG(mode):
                    regular.append((path, name))
                if len(directories) + len(regular) > limit:
                    return False
        finally:
            os.close(fd)
    for path, name in regular:
        _sync(root_fd, f"{path}/{name}" if path else name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    for path in reversed(directories):
        _sync(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
    return True


def _sync(root_fd: int, path: str, flags: int) -> None:
    fd = files.open_beneath(root_fd, path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
