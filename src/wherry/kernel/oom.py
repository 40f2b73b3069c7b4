"""Being told when a control group runs out of memory.  Source: Linux Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst."""

from __future__ import annotations

import os

from wherry.kernel.cgroup import Hierarchies, Unsupported


def events_file(found: Hierarchies, path: str) -> str:
    """With v2: the file that changes after a kill, and at other times."""
    return f"{_directory(found, path)}/memory.events"


def watch(found: Hierarchies, path: str) -> int:
    """With v1: a descriptor that can be read before the kill, and in the end when the group is removed; the caller closes it.

    Raises OSError, and Unsupported on a machine without a memory controller.
    """
    directory = _directory(found, path)
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open(f"{directory}/memory.oom_control") as control, open(f"{directory}/cgroup.event_control", "w") as registry:
            registry.write(f"{fd} {control.fileno()}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _directory(found: Hierarchies, path: str) -> str:
    directory = found.directory("memory", path)
    if directory is None:
        raise Unsupported("this machine has no memory cgroup")
    return directory
