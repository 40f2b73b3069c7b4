"""Blocking work in threads, for coroutines that may be cancelled while a thread still holds a file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
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
        await settle(task)
        raise


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel ``task`` and wait until it has tidied up."""
    task.cancel()
    await settle(task)


async def settle(task: asyncio.Future[Any]) -> None:
    """Wait for the end of ``task``, whatever it is, and however often that is cancelled meanwhile."""
    again: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancelled:
            again = cancelled
    if not task.cancelled():
        task.exception()  # read, so that nobody is blamed
    if again is not None:
        raise again


async def produce(run: Run, work: Callable[[Sink], object], *, ahead: int = 4) -> AsyncGenerator[bytes, None]:
    """What ``work`` writes in a thread, as it comes, at most ``ahead`` pieces early; its failure is raised after the last.

    When the reader leaves (``aclose``), the next write in the thread raises BrokenPipeError, and is waited for.
    """
    sink = _Handover(asyncio.get_running_loop(), ahead)

    def begin() -> None:
        try:
            work(sink)
        finally:
            sink.end()

    working = asyncio.ensure_future(run(begin))
    try:
        while (piece := await sink.taken()) is not None:
            yield piece
        await working
    finally:
        while not working.done():
            sink.leave()
            await asyncio.wait({working}, timeout=0.05)
        if not working.cancelled():
            working.exception()


class _Handover:
    """The thread writes, at most ``ahead`` pieces early; the loop takes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead: int) -> None:
        self._loop = loop
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(ahead)
        self._left = False

    async def taken(self) -> bytes | None:
        piece = await self._pieces.get()
        self._room.release()
        return piece

    def leave(self) -> None:
        """Nobody takes any more: let a thread that waits for room see it."""
        self._left = True
        self._room.release()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._room.acquire()
        if self._left:
            raise BrokenPipeError("nobody reads any more")
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, bytes(data))
        except RuntimeError as error:  # the loop is closed
            raise BrokenPipeError("nobody reads any more") from error
        return len(data)

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, None)


class Pipe(io.RawIOBase):
    """An asynchronous stream (a request's body) as a file for one thread.

    The thread reads; the loop feeds: see ``feeding``. A stream that breaks off raises what it raised, from ``read``.
    """

    def __init__(self, chunks: AsyncIterator[bytes], *, ahead: int = 8) -> None:
        super().__init__()
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | BaseException] = asyncio.Queue(ahead)
        self._held = memoryview(b"")
        self._ended = False
        self._abandoned = False

    async def feed(self) -> None:
        """Hand the stream over, chunk by chunk; ends with the stream, or when ``abandon`` was called."""
        try:
            async for chunk in self._chunks:
                if self._abandoned:
                    return
                if chunk:
                    await self._queue.put(chunk)
        except Exception as error:  # noqa: BLE001 - raised where the stream is read
            await self._queue.put(error)
        else:
            await self._queue.put(b"")

    def abandon(self) -> None:
        """Nobody feeds any more: the next read in the thread fails.  Called on the loop."""
        self._abandoned = True
        while self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(BrokenPipeError("the stream was broken off"))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """What is there, at most ``size`` bytes; empty at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._held and not self._ended:
            piece = asyncio.run_coroutine_threadsafe(self._queue.get(), self._loop).result()
            if isinstance(piece, BaseException):
                raise piece
            self._ended = not piece
            self._held = memoryview(piece)
        data = bytes(self._held[:size])
        self._held = self._held[len(data) :]
        return data


async def consume(run: Run, chunks: AsyncIterator[bytes], work: Callable[[Pipe], T]) -> T:
    """Run ``work`` in a thread over the stream ``chunks``; cancelling it ends the thread's reading first."""
    pipe = Pipe(chunks)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(pipe.feed())
        working = asyncio.ensure_future(run(work, pipe))
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            pipe.abandon()
            await settle(working)
            raise
        finally:
            feeding.cancel()
    return working.result()
