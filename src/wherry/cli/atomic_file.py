"""Write a file that the user named: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from wherry.cli.flags import Failure


@contextmanager
def writing(path: str, what: str) -> Iterator[int]:
    """A descriptor that becomes ``path`` when the block ends well; a device or pipe is written as it is.  Raises Failure."""
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise Failure(f"{what}: invalid output path: stat {folder}: no such file or directory")
    if os.path.isdir(path):
        raise Failure(f'{what}: invalid output path: "{path}" must be a regular file')
    special = os.path.exists(path) and not os.path.isfile(path)
    target = path if special else os.path.join(folder, f".tmp-{os.path.basename(path)}{os.getpid()}")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
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
