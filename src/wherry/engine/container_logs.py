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
from wherry.spec.docker.container import ContainerWaited


def reader(container: Container, path: str, query: LogQuery) -> LogReader:
    return LogReader(path, query, FORMATS[container.record.host_config.log_config.type])


async def stream(rooms: Rooms, container: Container, path: str, query: LogQuery) -> AsyncIterator[bytes]:
    """Rendered chunks; with ``query.follow`` until the program ends, as with Docker also one that is started again."""
    async with AsyncExitStack() as resources:
        follow = query.follow and container.is_running
        changed = resources.enter_context(rooms.changes.of(os.path.dirname(path))) if follow else None
        ended = container.watch("next-exit") if follow else None
        if ended is not None:
            resources.callback(ended.cancel)
        log = reader(container, path, query)
        resources.push_async_callback(rooms.workers.run, log.close)
        while True:
            over = ended is None or ended.done()  # looked at before reading: what is written until then is still read
            if changed is not None:
                changed.clear()
            while data := await rooms.workers.run(log.read):
                yield data
            if over or changed is None or log.finished:
                return
            await _either(changed, ended)


async def _either(event: asyncio.Event, future: asyncio.Future[ContainerWaited] | None) -> None:
    happened = asyncio.ensure_future(event.wait())
    waiting: set[asyncio.Future[Any]] = {happened} if future is None else {happened, future}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happened.cancel()
