"""Streams on their way to blocking code and back."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import pytest

from wherry.engine.feeding import Arriving, drain, through_file
from wherry.store.layer import write_all
from wherry.store.parsing import wide_pipe


async def pieces(*chunks: bytes, failure: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if failure is not None:
        raise failure


def test_what_arrives_is_read_as_from_a_file() -> None:
    async def scenario() -> bytes:
        async def work(file: Arriving) -> bytes:
            return await asyncio.to_thread(file.read)

        return await through_file(pieces(b"a" * 3_000_000, b"b"), work)

    assert asyncio.run(scenario()) == b"a" * 3_000_000 + b"b"


def test_what_nobody_reads_yet_is_held_back_and_the_rest_comes_when_there_is_room() -> None:
    size, taken = 1 << 18, 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        for number in range(200):
            taken += size
            yield bytes([number]) * size

    async def scenario() -> bytes:
        async def work(file: Arriving) -> bytes:
            for _ in range(100):
                await asyncio.sleep(0)
            assert size <= taken <= 6 * size
            return await asyncio.to_thread(file.read)

        return await through_file(counted(), work)

    for _ in range(5):
        taken = 0
        assert asyncio.run(scenario()) == b"".join(bytes([number]) * size for number in range(200))


def test_pieces_are_cut_to_the_size_that_is_asked_for_and_never_joined() -> None:
    async def scenario() -> list[bytes]:
        async def work(file: Arriving) -> list[bytes]:
            return await asyncio.to_thread(lambda: [file.read(size) for size in (2, 2, 9, 9, 9, 9)])

        return await through_file(pieces(b"abc", b"", b"de"), work)

    assert asyncio.run(scenario()) == [b"ab", b"c", b"de", b"", b"", b""]


def test_a_stream_that_breaks_off_is_the_error_that_is_raised() -> None:
    async def scenario() -> None:
        async def work(file: Arriving) -> bytes:
            return await asyncio.to_thread(file.read)

        with pytest.raises(ConnectionError):
            await through_file(pieces(b"a", failure=ConnectionError("gone")), work)

    asyncio.run(scenario())


def test_work_that_fails_early_leaves_no_descriptor_and_no_writer() -> None:
    async def scenario() -> None:
        async def work(file: Arriving) -> bytes:
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

        def read(file: Arriving) -> None:
            assert file.read(1) == b"a"
            reads.set()
            rest = file.read()  # holds the file's lock
            loop.call_soon_threadsafe(done.set_result, rest)

        async def work(file: Arriving) -> None:
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

        def write() -> None:
            with os.fdopen(writer, "wb", buffering=0) as out:
                write_all(out, b"x" * 4_000_000)

        feeding = asyncio.ensure_future(asyncio.to_thread(write))
        total = 0
        async for chunk in drain(reader):
            total += len(chunk)
        await feeding
        return total

    assert asyncio.run(scenario()) == 4_000_000
