"""Containers that run out of memory: told when it happens, whether or not the whole container ends of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial

from wherry.containers import oci, present
from wherry.containers.container import Container
from wherry.engine.changes import Changes
from wherry.engine.rooms import Rooms
from wherry.kernel import cgroup, oom
from wherry.kernel.cgroup import Hierarchies

log = logging.getLogger(__name__)


class MemoryWatcher:
    """``begin`` when a container runs, ``end`` when it does not any more.  One without a limit of its own is not watched."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._watched: dict[str, Callable[[], None]] = {}  # by the container's id: what ends it

    def begin(self, container: Container) -> None:
        if container.record.host_config.memory <= 0 or container.id in self._watched:
            return
        path = oci.cgroups_path(container.record, self._rooms.settings.tag)
        try:
            end = watch(self._rooms.cgroups, path, self._rooms.changes, partial(self._on_event, container, path))
        except FileNotFoundError:
            return  # it has ended already
        except OSError as error:
            log.warning("container %s: running out of memory is told only at its end: %s", container.name, error)
            return
        self._watched[container.id] = end

    def end(self, container: Container) -> None:
        if end := self._watched.pop(container.id, None):
            end()

    def _on_event(self, container: Container, path: str) -> None:
        groups = self._rooms.cgroups
        if not os.path.isdir(groups.directory("memory", path) or ""):
            self.end(container)  # told of its removal
            return
        if groups.v2 and not cgroup.oom_kills(groups, path):
            return  # another number in the file has changed
        self.tell(container)

    def tell(self, container: Container) -> None:
        """Say so, once in a run."""
        state = container.record.state
        if container.is_running and not state.oom_killed:
            state.oom_killed = True
            self._rooms.events.publish("container", "oom", container.id, present.attributes(container.record))


def watch(groups: Hierarchies, path: str, changes: Changes, tell: Callable[[], None]) -> Callable[[], None]:
    """Call ``tell`` on this loop when the group may be out of memory or gone; the answer ends that.

    Raises OSError, and Unsupported on a machine without a memory controller.
    """
    if groups.v2:
        return changes.watch(oom.events_file(groups, path), tell)
    loop, fd = asyncio.get_running_loop(), oom.watch(groups, path)

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 8)
        tell()

    def end() -> None:
        loop.remove_reader(fd)
        os.close(fd)

    loop.add_reader(fd, read)
    return end
