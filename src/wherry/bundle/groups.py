"""The control group of a container: made with what it lacks above itself, and taken away with exactly that."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from wherry.bundle.failures import Failure
from wherry.kernel import cgroup, limits


def missing(found: cgroup.Hierarchies, path: str) -> tuple[str, ...]:
    """The directories that a group needs and that are not there, deepest first."""
    names: list[str] = []
    current = posixpath.normpath(path)
    while current.strip("/"):
        lacking = [one for one in found.directories(current) if not os.path.isdir(one)]
        if not lacking:  # nor do those above
            break
        names += lacking
        current = posixpath.dirname(current)
    return tuple(names)


def check_empty(found: cgroup.Hierarchies, path: str) -> None:
    """Raises Failure where others are in the group: they would share its limits and end with the container."""
    try:
        count = len(cgroup.processes(found, path))
    except FileNotFoundError:
        return
    if count:
        raise Failure(f"container's cgroup is not empty: {count} process(es) found in {path}")


def make(found: cgroup.Hierarchies, path: str, resources: Mapping[str, Any]) -> None:
    """Make and limit the group."""
    cgroup.create(found, path)
    limits.apply(found, path, resources)


def remove(found: cgroup.Hierarchies, path: str, made: Iterable[str]) -> bool:
    """End what is in the group; remove it, and what was made above it as far as nobody else uses that.  False when something stays."""
    ended = cgroup.end(found, path)
    for directory in made:
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return ended
