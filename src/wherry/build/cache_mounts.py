"""What RUN --mount=type=cache keeps between builds: one directory each, named by a digest, with a record of the build cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from wherry.tree.measure import tree_bytes
from wherry.tree.remove import remove

_PREFIX = "mount:"


def folder(data_root: str) -> str:
    return os.path.join(data_root, "build-mounts")


def key_of(directory: str) -> str:
    """The record's key."""
    return _PREFIX + os.path.basename(directory)


def sizes(data_root: str) -> dict[str, int]:
    """The bytes that each holds, by key."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder(data_root)) as entries:
        for entry in entries:
            fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found[key_of(entry.name)] = tree_bytes(fd)
            finally:
                os.close(fd)
    return found


def discard(data_root: str, keys: Iterable[str]) -> None:
    """Remove them, unless they are gone; nobody finds one half removed.  What is left of it after a crash goes at the next start."""
    staging = os.path.join(data_root, "staging")
    staging_fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for key in keys:
            name = f"gone-{os.urandom(8).hex()}"
            with suppress(FileNotFoundError):
                os.rename(os.path.join(folder(data_root), key.removeprefix(_PREFIX)), os.path.join(staging, name))
                remove(staging_fd, name)
    finally:
        os.close(staging_fd)
