"""Threads that read and write streams, and what happens when one side leaves."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wherry.images.blocking import Pipe, consume, finish, produce

PIECE = b"x" * 1000


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PIECE
        await asyncio.sleep(0)


def test_what_a_thread_writes_comes_in_order_and_its_failure_last() -> None:
    def work(out: Any) -> None:
        for number in range(20):
            out.write(bytes([number]))
        raise ValueError("the disk is gone")

    async def body() -> None:
        stream = produce(asyncio.to_thread, work)
        assert [await anext(stream) for _ in range(20)] == [bytes([number]) for number in range(20)]
        with pytest.raises(ValueError, match="the disk is gone"):
            await anext(stream)

    asyncio.run(body())


def test_a_reader_that_leaves_ends_the_writer() -> None:
    ended = threading.Event()

    def work(out: Any) -> None:
        try:
            while True:
                out.write(PIECE)
        except BrokenPipeError:
            ended.set()
            raise

    async def body() -> None:
        stream = produce(asyncio.to_thread, work)
        assert await anext(stream) == PIECE
        await stream.aclose()
        assert ended.is_set()

    asyncio.run(body())


def test_a_thread_reads_a_stream_as_a_file() -> None:
    def work(source: Pipe) -> int:
        assert source.read(10) == PIECE[:10]
        return 10 + len(source.read())

    assert asyncio.run(consume(asyncio.to_thread, pieces(30), work)) == 30_000


def test_a_stream_that_breaks_off_fails_where_it_is_read() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield PIECE
        raise ConnectionResetError("the client went")

    async def body() -> None:
        with pytest.raises(ConnectionResetError, match="the client went"):
            await consume(asyncio.to_thread, broken(), lambda source: source.read())

    asyncio.run(body())


def test_a_cancelled_reading_ends_its_thread_first() -> None:
    ended = threading.Event()
    reading = threading.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield PIECE
        await asyncio.Event().wait()

    def work(source: Pipe) -> None:
        source.read(1000)
        reading.set()
        try:
            source.read(1)
        finally:
            ended.set()

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(consume(asyncio.to_thread, endless(), work))
            await asyncio.to_thread(reading.wait, 10)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert ended.is_set()

    asyncio.run(body())


def test_of_a_reader_whose_stream_was_broken_off_nobody_is_told() -> None:
    """Each client that left in the midst of an upload was told of in the daemon's log, in thirty lines."""
    told: list[object] = []

    async def stuck() -> AsyncIterator[bytes]:
        yield PIECE
        await asyncio.sleep(3600)

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        consuming = asyncio.ensure_future(consume(asyncio.to_thread, stuck(), lambda source: source.read()))
        await asyncio.sleep(0.05)
        consuming.cancel()
        await asyncio.wait({consuming})
        assert consuming.cancelled()
        del consuming
        gc.collect()

    asyncio.run(body())
    assert told == []


def test_a_cancelled_wait_lets_the_work_end_first() -> None:
    let_go, done = threading.Event(), threading.Event()

    def work() -> None:
        let_go.wait(60)
        done.set()

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(finish(asyncio.to_thread(work)))
            await asyncio.sleep(0)
            for _ in range(3):  # its client leaves, the server closes, the engine ends
                task.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert not task.done()
            let_go.set()
            await asyncio.wait({task})
            assert task.cancelled()
            assert done.is_set()

    asyncio.run(body())
