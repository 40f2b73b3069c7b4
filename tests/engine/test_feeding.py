"""Streams on their way to blocking code and back."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import BinaryIO

import pytest

from wherry.engine.feeding import drain, feed, through_file
from wherry.store.parsing import wide_pipe


async def pieces(*chunks: bytes, failure: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if failure is not None:
        raise failure


def test_what_arrives_is_read_as_from_a_file() -> None:
    async def scenario() -> bytes:
        async def work(file: BinaryIO) -> bytes:
            return await asyncio.to_thread(file.read)

        return await through_file(pieces(b"a" * 3_000_000, b"b"), work)

    assert asyncio.run(scenario()) == b"a" * 3_000_000 + b"b"


def test_a_stream_that_breaks_off_is_the_error_that_is_raised() -> None:
    async def scenario() -> None:
        async def work(file: BinaryIO) -> bytes:
            return await asyncio.to_thread(file.read)

        with pytest.raises(ConnectionError):
            await through_file(pieces(b"a", failure=ConnectionError("gone")), work)

    asyncio.run(scenario())


def test_work_that_fails_early_leaves_no_descriptor_and_no_writer() -> None:
    async def scenario() -> None:
        async def work(file: BinaryIO) -> bytes:
            raise ValueError("no")

        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with pytest.raises(ValueError, match="no"):
                await through_file(pieces(b"x" * 5_000_000), work)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scenario())


def test_work_that_is_cancelled_while_its_thread_waits_for_more_holds_nobody_up() -> None:
    async def scenario() -> bytes:
        reads, done = threading.Event(), asyncio.get_running_loop().create_future()

        def read(file: BinaryIO) -> None:
            assert file.read(1) == b"a"
            reads.set()
            rest = file.read()  # holds the file's lock
            loop.call_soon_threadsafe(done.set_result, rest)

        async def work(file: BinaryIO) -> None:
            await asyncio.to_thread(read, file)

        async def endless() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(through_file(endless(), work))
        await asyncio.to_thread(reads.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return bytes(await done)

    ended: list[bytes] = []
    thread = threading.Thread(target=lambda: ended.append(asyncio.run(scenario())), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert ended == [b""]


def test_a_pipe_is_drained_to_its_end() -> None:
    async def scenario() -> int:
        reader, writer = wide_pipe()
        feeding = asyncio.ensure_future(feed(pieces(b"x" * 4_000_000), writer))
        feeding.add_done_callback(lambda _: os.close(writer))
        total = 0
        async for chunk in drain(reader):
            total += len(chunk)
        await feeding
        return total

    assert asyncio.run(scenario()) == 4_000_000
