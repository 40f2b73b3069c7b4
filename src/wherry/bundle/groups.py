"""The control group of a container: made with what it lacks above itself, and taken away with exactly that."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from wherry.kernel import cgroup


def make(found: cgroup.Hierarchies, path: str, resources: Mapping[str, Any], undo: contextlib.ExitStack) -> tuple[str, ...]:
    """Make and limit the group; the directories that were not there before, deepest first."""
    missing = tuple(_missing(found, path))
    undo.callback(remove, found, path, missing)
    cgroup.create(found, path)
    cgroup.limit(found, path, resources)
    return missing


def remove(found: cgroup.Hierarchies, path: str, made: Iterable[str]) -> bool:
    """End what is in the group; remove it, and what was made above it as far as nobody else uses that.  False when something stays."""
    ended = cgroup.end(found, path)
    for directory in made:
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return ended


def _missing(found: cgroup.Hierarchies, path: str) -> list[str]:
    names: list[str] = []
    current = posixpath.normpath(path)
    while current.strip("/"):
        names += [one for one in found.directories(current) if not os.path.isdir(one)]
        current = posixpath.dirname(current)
    return names
