"""Remove a tree of any depth, by descriptors: a symlink swapped in meanwhile leads nowhere."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from wherry.kernel import files

_FAR = 2000  # bytes of path; deeper directories are moved up first, so no path comes near PATH_MAX
_PATIENCE_S = 5  # with whoever adds to what is removed


def remove(parent_fd: int, name: str) -> None:
    """Remove ``name`` in ``parent_fd``, with all below when it is a directory; an absent one is success.

    Whoever is at work in it (a copy into a container that is removed) may go on adding and removing for a while.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                _remove_directory(parent_fd, name)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)


def _remove_directory(parent_fd: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        remove_content(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)


def remove_empty(path: str, directories: Sequence[str], files: Sequence[str] = ()) -> bool:
    """Remove the directory ``path`` if nothing is in it but ``files`` and the empty ``directories``, each after those below it.

    Far quicker than `remove`, which need not know what is there; when this returns False, some of it may be gone. Who can write to
    ``path`` itself must be trusted.
    """
    try:
        for name in files:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
        for name in directories:
            with suppress(FileNotFoundError):
                os.rmdir(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        return False
    return True


def discard(path: str) -> None:
    """Remove ``path``, whose parent is ours alone, as far as that is possible; what stays is swept at the next start."""
    with contextlib.suppress(OSError):
        parent_fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove(parent_fd, os.path.basename(path))
        finally:
            os.close(parent_fd)


def remove_content(root_fd: int, keep: Collection[str] = ()) -> None:
    """Remove everything in the directory ``root_fd`` but the names in ``keep``."""
    pending = [""]
    emptied: list[str] = []
    while pending:
        path = pending.pop()
        fd = files.open_beneath(root_fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            subdirectories = _unlink_files(fd, keep if not path else ())
            if len(path) > _FAR:
                subdirectories = [_move_up(fd, name, root_fd) for name in subdirectories]
                path_prefix = ""
            else:
                path_prefix = path + "/" if path else ""
        finally:
            os.close(fd)
        if path:
            emptied.append(path)
        pending += [path_prefix + name for name in subdirectories]
    for path in reversed(emptied):
        _rmdir(root_fd, path)


def _unlink_files(fd: int, keep: Collection[str]) -> list[str]:
    """Unlink what is no directory; return the directories."""
    directories = []
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if name in keep:
            continue
        if is_directory:
            directories.append(name)
        else:
            os.unlink(name, dir_fd=fd)
    return directories


def _move_up(fd: int, name: str, root_fd: int) -> str:
    new_name = f".wherry-{os.urandom(8).hex()}"
    os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=root_fd)
    return new_name


def _rmdir(root_fd: int, path: str) -> None:
    parent, _, name = path.rpartition("/")
    if not parent:
        os.rmdir(name, dir_fd=root_fd)
        return
    fd = files.open_beneath(root_fd, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        os.rmdir(name, dir_fd=fd)
    finally:
        os.close(fd)
