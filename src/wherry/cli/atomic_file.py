"""Write a file that the user named: whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from wherry.cli.flags import Failure


def check_target(path: str, what: str) -> None:
    """Raises Failure, begun by ``what``, for a path that can't be written."""
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise Failure(f"{what}: invalid output path: stat {folder}: no such file or directory")
    if os.path.isdir(path):
        raise Failure(f"{what}: cannot write to a directory")
    if os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode):
        raise Failure(f"{what}: cannot write to a character device file")


@contextmanager
def writing(path: str, what: str) -> Iterator[int]:
    """A descriptor that becomes ``path`` when the block ends well; a pipe or block device is written as it is.  Raises Failure."""
    check_target(path, what)
    special = os.path.exists(path) and not os.path.isfile(path)
    target = path if special else os.path.join(os.path.dirname(path), f".tmp-{os.path.basename(path)}{os.urandom(8).hex()}")
    new = os.O_TRUNC if special else os.O_EXCL  # another may write to the directory, and have put a link there
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | new, 0o600)
    try:
        yield descriptor
        if not special:
            os.rename(target, path)
    except BaseException:
        if not special:
            os.unlink(target)
        raise
    finally:
        os.close(descriptor)
