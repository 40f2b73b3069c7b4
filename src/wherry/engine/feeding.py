"""Between a client's stream and blocking code: bytes that arrive on the event loop are read by a worker thread as from a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO, TypeVar

from wherry.store.parsing import wide_pipe

T = TypeVar("T")
READ_BYTES = 1 << 18


async def through_file(chunks: AsyncIterator[bytes], work: Callable[[BinaryIO], Awaitable[T]]) -> T:
    """Run ``work`` on a file that yields what ``chunks`` brings; what it leaves unread is dropped.

    When the stream breaks off the file ends early and the stream's error is raised.
    """
    reader, writer = wide_pipe()
    feeding = asyncio.ensure_future(feed(chunks, writer))
    feeding.add_done_callback(lambda _: os.close(writer))  # also when it is cancelled before it began
    file = os.fdopen(reader, "rb", buffering=READ_BYTES)
    try:
        result = await work(file)
    finally:
        try:
            # The writing end goes first: a thread that still reads, of work that was cancelled, holds the file's lock until the end.
            if not feeding.done():
                feeding.cancel()
            outcome = (await asyncio.gather(feeding, return_exceptions=True))[0]
        finally:
            file.close()
    if isinstance(outcome, Exception) and not isinstance(outcome, BrokenPipeError):
        raise outcome
    return result


async def feed(chunks: AsyncIterator[bytes], fd: int) -> None:
    """Write all of ``chunks`` to ``fd``, which stays the caller's."""
    os.set_blocking(fd, False)
    async for chunk in chunks:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                await ready(fd, writing=True)


async def drain(fd: int, *, size: int = READ_BYTES) -> AsyncIterator[bytes]:
    """What comes out of ``fd``, which is closed at the end."""
    os.set_blocking(fd, False)
    try:
        while True:
            try:
                data = os.read(fd, size)
            except BlockingIOError:
                await ready(fd, writing=False)
                continue
            if not data:
                return
            yield data
    finally:
        os.close(fd)


async def ready(fd: int, *, writing: bool) -> None:
    """Wait until ``fd`` can be read or written."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(fd, event.set)
    try:
        await event.wait()
    finally:
        remove(fd)
