"""Between a client's stream and blocking code: bytes that arrive on the event loop are read by a worker thread as from a file."""

from __future__ import annotations

import asyncio
import io
import os
import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
READ_BYTES = 1 << 18
_AHEAD_BYTES = 1 << 20  # that may wait for the thread


async def through_file(chunks: AsyncIterator[bytes], work: Callable[[Arriving], Awaitable[T]]) -> T:
    """Run ``work`` on a file that yields what ``chunks`` brings; what it leaves unread is dropped.

    When the stream breaks off the file ends early and the stream's error is raised.
    """
    file = Arriving()
    feeding = asyncio.ensure_future(file.feed(chunks))
    try:
        result = await work(file)
    finally:
        file.end()  # a thread that still reads, of work that was cancelled, need not wait for more
        feeding.cancel()
        outcome = (await asyncio.gather(feeding, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        raise outcome
    return result


class Arriving(io.RawIOBase):
    """What arrives on the loop (`feed`), read by one thread; no byte is copied on the way, nor has it to go through the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # an empty one is the end
        self._put = self._taken = 0  # bytes; each is counted by one side alone
        self._is_full = False
        self._room = asyncio.Event()
        self._held: bytes | memoryview = b""
        self._ended = False

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """To the end of ``chunks``, whatever that is."""
        try:
            async for chunk in chunks:
                if chunk:
                    self._put += len(chunk)
                    self._pieces.put(chunk)
                    await self._wait_for_room()
        finally:
            self.end()

    def end(self) -> None:
        """Nothing more comes."""
        self._pieces.put(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """What is there, at most ``size`` bytes; without a size all there will be.  Empty at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(READ_BYTES), b""))
        piece = self._held or self._next()
        if len(piece) <= size:
            self._held = b""
            return bytes(piece)
        view = memoryview(piece)
        self._held = view[size:]
        return bytes(view[:size])

    def _next(self) -> bytes:
        if self._ended:
            return b""
        piece = self._pieces.get()
        self._ended = not piece
        self._taken += len(piece)
        if self._is_full and self._put - self._taken <= _AHEAD_BYTES // 2:
            self._is_full = False
            self._loop.call_soon_threadsafe(self._room.set)
        return piece

    async def _wait_for_room(self) -> None:
        if self._put - self._taken <= _AHEAD_BYTES:
            return
        self._room.clear()
        self._is_full = True  # before what the thread has taken is looked at again: it looks at this after it has taken something
        try:
            if self._put - self._taken > _AHEAD_BYTES:
                await self._room.wait()
        finally:
            self._is_full = False


async def drain(fd: int, *, size: int = READ_BYTES) -> AsyncIterator[bytes]:
    """What comes out of ``fd``, which is closed at the end."""
    os.set_blocking(fd, False)
    try:
        while True:
            try:
                data = os.read(fd, size)
            except BlockingIOError:
                await _readable(fd)
                continue
            if not data:
                return
            yield data
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)
