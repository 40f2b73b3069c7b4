"""What every container needs in its root before anything can be mounted there: made where missing, never touched where present.

Source: moby's init layer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wherry.kernel import files

DIRECTORIES: Final = ("/dev", "/proc", "/sys")
FILES: Final = ("/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
LINKS: Final = {"/etc/mtab": "/proc/mounts"}


def furnish(root_fd: int) -> None:
    """Make mount points and files in the root.  Raises OSError where the image has something else in the way."""
    for path in DIRECTORIES:
        os.close(files.mkdirs_in_root(root_fd, path))
    for path in (*FILES, *LINKS):
        parent, name = os.path.split(path)
        directory = files.mkdirs_in_root(root_fd, parent)
        try:
            with contextlib.suppress(FileExistsError):
                _make(directory, name, LINKS.get(path))
        finally:
            os.close(directory)


def _make(directory: int, name: str, target: str | None) -> None:
    if target is not None:
        os.symlink(target, name, dir_fd=directory)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o644, dir_fd=directory)
    try:
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)


def furnish_task(root_fd: int, _arguments: Mapping[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    """``furnish`` as a function of ``runtime.tasks``."""
    furnish(root_fd)
    return {}
