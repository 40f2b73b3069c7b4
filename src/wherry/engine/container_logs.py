"""A container's log as a stream, with `--follow` woken by inotify: nothing is polled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

from wherry.containers.container import Container
from wherry.containers.logs import LogQuery, LogReader
from wherry.engine.rooms import Rooms
from wherry.kernel import inotify
from wherry.spec.docker.container import ContainerWaited


async def stream(rooms: Rooms, container: Container, path: str, query: LogQuery) -> AsyncIterator[bytes]:
    """Rendered chunks; with ``query.follow`` until the container ends or the caller closes the stream."""
    with ExitStack() as resources:
        wake = Wake(os.path.dirname(path), resources) if query.follow else None
        reader = resources.enter_context(LogReader(path, query))
        ended = container.watch("not-running") if query.follow else None
        if ended is not None:
            resources.callback(ended.cancel)
        while True:
            over = ended is None or ended.done()  # looked at before reading: what is written until then is still read
            while data := await rooms.workers.run(reader.read):
                yield data
                if reader.finished:
                    return
            if over or wake is None:
                return
            await wake.wait(ended)


class Wake:
    """Waits until something changes in a folder, or a future is done."""

    def __init__(self, folder: str, resources: ExitStack) -> None:
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
