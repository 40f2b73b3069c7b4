"""Blocking work in threads, for coroutines that may be cancelled while a thread still holds a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError as Abandoned
from typing import Any, Protocol, TypeVar

from wherry.tree.tar import Sink

T = TypeVar("T")


class Run(Protocol):
    """How a blocking function is run in a thread: the engine's ``Workers.run``."""

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Awaitable[T]: ...


async def finish(work: Awaitable[T]) -> T:
    """Wait for ``work`` even when cancelled meanwhile, and only then let the cancellation go on: what it used may be closed now."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise


async def produce(run: Run, work: Callable[[Sink], object], *, ahead: int = 4) -> AsyncIterator[bytes]:
    """What ``work`` writes in a thread, as it comes, at most ``ahead`` pieces early; its failure is raised after the last.

    When the reader leaves, the next write in the thread raises BrokenPipeError.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(ahead)
    sink = _Handover(loop, pieces)

    def begin() -> None:
        try:
            work(sink)
        finally:
            sink.end()

    working = asyncio.ensure_future(run(begin))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        await working
    finally:
        sink.left = True
        while not working.done():
            while not pieces.empty():
                pieces.get_nowait()
            await asyncio.wait({working}, timeout=0.05)
        if not working.cancelled():
            working.exception()


class _Handover:
    def __init__(self, loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[bytes | None]) -> None:
        self._loop = loop
        self._pieces = pieces
        self.left = False

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._put(bytes(data))
        return len(data)

    def end(self) -> None:
        try:
            self._put(None)
        except BrokenPipeError:
            pass

    def _put(self, piece: bytes | None) -> None:
        if self.left:
            raise BrokenPipeError("nobody reads any more")
        try:
            asyncio.run_coroutine_threadsafe(self._pieces.put(piece), self._loop).result()
        except (Abandoned, RuntimeError) as error:
            raise BrokenPipeError("nobody reads any more") from error
