"""A container's log as a stream, with `--follow` woken by inotify: nothing is polled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from wherry.containers.container import Container
from wherry.containers.logs import FORMATS, LogQuery, LogReader
from wherry.engine.rooms import Rooms
from wherry.kernel import inotify
from wherry.spec.docker.container import ContainerWaited


def reader(container: Container, path: str, query: LogQuery) -> LogReader:
    return LogReader(path, query, FORMATS[container.record.host_config.log_config.type])


async def stream(rooms: Rooms, container: Container, path: str, query: LogQuery) -> AsyncIterator[bytes]:
    """Rendered chunks; with ``query.follow`` until the program ends, as with Docker also one that is started again."""
    async with AsyncExitStack() as resources:
        follow = query.follow and container.is_running
        wake = Wake(os.path.dirname(path), resources) if follow else None
        ended = container.watch("next-exit") if follow else None
        if ended is not None:
            resources.callback(ended.cancel)
        log = reader(container, path, query)
        resources.push_async_callback(rooms.workers.run, log.close)
        while True:
            over = ended is None or ended.done()  # looked at before reading: what is written until then is still read
            while data := await rooms.workers.run(log.read):
                yield data
            if over or wake is None or log.finished:
                return
            await wake.wait(ended)


class Wake:
    """Waits until something changes in a folder, or a future is done."""

    def __init__(self, folder: str, resources: AsyncExitStack) -> None:
        self._fd = inotify.init()
        resources.callback(os.close, self._fd)
        inotify.add_watch(self._fd, folder, inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO)
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._drain)
        resources.callback(loop.remove_reader, self._fd)

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 65536):
                self._changed.set()
        except BlockingIOError:
            pass

    async def wait(self, also: asyncio.Future[ContainerWaited] | None) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        waiting: set[asyncio.Future[Any]] = {changed} if also is None else {changed, also}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        self._changed.clear()
