"""Containers that run out of memory: told when it happens, whether or not the whole container ends of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from wherry.containers import oci, present
from wherry.containers.container import Container
from wherry.engine.rooms import Rooms
from wherry.kernel import cgroup, oom

log = logging.getLogger(__name__)


class MemoryWatcher:
    """``begin`` when a container runs, ``end`` when it does not any more.  One without a limit of its own is not watched."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._watched: dict[str, int] = {}

    def begin(self, container: Container) -> None:
        if container.record.host_config.memory <= 0 or container.id in self._watched:
            return
        path = oci.cgroups_path(container.record, self._rooms.settings.tag)
        try:
            fd = oom.watch(self._rooms.cgroups, path)
        except FileNotFoundError:
            return  # it has ended already
        except OSError as error:
            log.warning("container %s: running out of memory is told only at its end: %s", container.name, error)
            return
        self._watched[container.id] = fd
        asyncio.get_running_loop().add_reader(fd, self._on_event, container, fd, path)

    def end(self, container: Container) -> None:
        fd = self._watched.pop(container.id, -1)
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _on_event(self, container: Container, fd: int, path: str) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 4096)
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
