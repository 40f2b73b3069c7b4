"""Being told when a control group runs out of memory.  Source: Linux Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst."""

from __future__ import annotations

import os

from wherry.kernel import inotify
from wherry.kernel.cgroup import Hierarchies, Unsupported


def watch(found: Hierarchies, path: str) -> int:
    """A descriptor that can be read when the group is out of memory, and in the end when it is removed; the caller closes it.

    With v1 it tells before the kill, with v2 after it. Raises OSError, and Unsupported on a machine without a memory controller.
    """
    directory = found.directory("memory", path)
    if directory is None:
        raise Unsupported("this machine has no memory cgroup")
    if found.v2:
        fd = inotify.init()
        try:
            inotify.add_watch(fd, f"{directory}/memory.events", inotify.IN_MODIFY)
        except BaseException:
            os.close(fd)
            raise
        return fd
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open(f"{directory}/memory.oom_control") as control, open(f"{directory}/cgroup.event_control", "w") as registry:
            registry.write(f"{fd} {control.fileno()}")
    except BaseException:
        os.close(fd)
        raise
    return fd
