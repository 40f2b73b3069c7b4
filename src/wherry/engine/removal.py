"""A container is removed: its records, files and anonymous volumes go, after its program was ended where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from wherry.containers import present
from wherry.containers.container import Container
from wherry.containers.lifecycle import Event, Status, advance
from wherry.containers.record import MountRecord
from wherry.engine.rooms import Rooms
from wherry.errors import Conflict, EngineError
from wherry.store.snapshot import SnapshotMissing

log = logging.getLogger(__name__)
_STOP_FIRST = "stop the container before removing or force remove"


class Ending(Protocol):
    """Who ends programs: `wherry.engine.running`."""

    async def stop_restarting(self, container: Container) -> bool:
        """To be called by what is its turn; false where it has started meanwhile."""

    async def end_at_once(self, container: Container) -> None:
        """Returns when it has ended.  Raises Conflict when the kernel keeps it."""


class Removal:
    def __init__(self, rooms: Rooms, ending: Ending) -> None:
        self._rooms = rooms
        self._ending = ending

    async def remove(self, container: Container, *, volumes: bool, force: bool, called: str) -> None:
        """Raises Conflict for one that runs, unless ``force``.  ``called``: how the client named it."""

        async def remove_ended() -> bool:
            if container.is_running or container.status is Status.RESTARTING:
                return False  # somebody started it while we waited for our turn
            await self.carry_out(container, volumes=volumes)
            return True

        while not await self._end(container, force=force, called=called):
            if await container.perform(remove_ended):
                return

    async def _end(self, container: Container, *, force: bool, called: str) -> bool:
        """End one that runs, where that is allowed; true where its end removed it.  Raises Conflict."""
        if container.status is Status.RESTARTING:
            if not force:
                raise Conflict(f'cannot remove container "{called}": container is restarting: {_STOP_FIRST}')
            await container.perform(lambda: self._ending.stop_restarting(container))
        if container.is_running:
            if not force:
                kind = "paused and must be unpaused first" if container.status is Status.PAUSED else f"running: {_STOP_FIRST}"
                raise Conflict(f'cannot remove container "{called}": container is {kind}')
            removed = container.watch("removed") if container.record.host_config.auto_remove else None
            await self._ending.end_at_once(container)
            if removed is not None:
                await removed
                return True
        return False

    async def carry_out_quietly(self, container: Container) -> None:
        """`carry_out` where nobody has asked who could be told of a failure."""
        try:
            await self.carry_out(container, volumes=True)
        except (EngineError, OSError) as error:
            log.warning("container %s: automatic removal failed: %s", container.name, error)

    async def carry_out(self, container: Container, *, volumes: bool) -> None:
        """Remove one that has ended, with its anonymous ``volumes``; to be called by what is its turn.  Raises Conflict, OSError."""
        rooms, record = self._rooms, container.record
        if record.state.status is Status.REMOVING:
            raise Conflict(f"removal of container {container.name} is already in progress")
        record.state.status = advance(record.state.status, Event.REMOVE)
        container.drop_pending()
        # The rows go first: a crash from here on leaves files without a row, which the next start sweeps.
        discards: list[Callable[[], None]] = []

        def detach() -> None:
            with suppress(SnapshotMissing):  # what has no layer any more can still be removed
                discards.append(rooms.snapshotter.detach(record.snapshot))

        rooms.containers.forget(container, detach)
        await rooms.workers.run(self._remove_files, container, discards)
        if volumes:
            await self._remove_anonymous_volumes(record.mounts)
        rooms.events.publish("container", "destroy", container.id, present.attributes(record))
        container.tell("removed", "not-running", "next-exit")

    def _remove_files(self, container: Container, discards: Sequence[Callable[[], None]]) -> None:
        for discard in discards:
            discard()
        self._rooms.containers.remove_folder(container.id)

    async def _remove_anonymous_volumes(self, mounts: list[MountRecord]) -> None:
        for mount in mounts:
            if mount.type == "volume" and mount.anonymous and not self._rooms.containers.using_volume(mount.name):
                await self._rooms.workers.run(
                    self._rooms.volumes.remove, mount.name, force=True, in_use=self._rooms.containers.using_volume
                )
                self._rooms.events.publish("volume", "destroy", mount.name, {"driver": "local"})
