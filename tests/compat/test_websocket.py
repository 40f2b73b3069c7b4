"""Attaching by WebSocket with a client of the field, to real programs.  What is expected was heard from Docker 28.5.2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from tests.conftest import Daemon

pytestmark = pytest.mark.root


@pytest.fixture
def program(engine: Daemon) -> Iterator[str]:
    yield "socketed"
    engine.run("rm", "-f", "socketed")


@asynccontextmanager
async def attached(engine: Daemon, query: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"http://d/v1.51/containers/socketed/attach/ws?{query}"
    connector = aiohttp.UnixConnector(engine.socket_path)
    async with aiohttp.ClientSession(connector=connector) as session, session.ws_connect(url, autoclose=False) as client:
        yield client


async def heard(client: aiohttp.ClientWebSocketResponse, until: bytes | None = None) -> bytes:
    """All output up to and with ``until``, or to the end of the conversation."""
    data = b""
    while until is None or not data.endswith(until):
        message = await client.receive(timeout=20)
        if message.type is aiohttp.WSMsgType.CLOSE:
            assert until is None, data
            assert message.data == 1000
            return data
        assert message.type is aiohttp.WSMsgType.BINARY
        data += message.data
    return data


def test_a_program_without_a_terminal_is_talked_to_from_before_its_start_to_its_end(engine: Daemon, program: str) -> None:
    engine.out("create", "-i", "--name", program, "bb", "sh", "-c", "read x; echo out:$x; read x; echo err:$x >&2")

    async def talk() -> None:
        async with attached(engine, "stream=1&stdin=1&stdout=1&stderr=1") as client:
            await asyncio.to_thread(engine.out, "start", program)
            await client.send_bytes(b"one\n")
            assert await heard(client, b"one\n") == b"out:one\n"
            await client.send_str("two\n")
            assert await heard(client) == b"err:two\n"

    asyncio.run(talk())


def test_a_closed_conversation_is_the_end_of_the_input(engine: Daemon, program: str) -> None:
    engine.out("create", "-i", "--name", program, "bb", "sh", "-c", "cat; echo end")

    async def talk() -> None:
        async with attached(engine, "stream=1&stdin=1&stdout=1") as client:
            await asyncio.to_thread(engine.out, "start", program)
            await client.send_bytes(b"x" * 300_000)
            await asyncio.gather(client.close(), until_exited())

    async def until_exited() -> None:
        await asyncio.to_thread(engine.out, "wait", program)

    asyncio.run(talk())
    assert engine.run("logs", program).out == "x" * 300_000 + "end\n"


def test_a_terminal_is_left_by_its_keys(engine: Daemon, program: str) -> None:
    engine.out("run", "-dit", "--name", program, "bb", "cat")

    async def talk() -> None:
        async with attached(engine, "stream=1&stdin=1&stdout=1&stderr=1&detachKeys=ctrl-a,x") as client:
            await client.send_bytes(b"hello\n")
            assert await heard(client, b"hello\r\nhello\r\n")
            await client.send_bytes(b"\x01x")
            assert await heard(client) == b""

    asyncio.run(talk())
    assert engine.out("inspect", "-f", "{{.State.Status}}", program) == "running"


def test_what_was_written_is_replayed_without_frames(engine: Daemon, program: str) -> None:
    engine.out("run", "--name", program, "bb", "sh", "-c", "echo one; echo two >&2")

    async def replay(query: str) -> bytes:
        async with attached(engine, query) as client:
            return await heard(client)

    assert sorted(asyncio.run(replay("logs=1&stdout=1&stderr=1")).split()) == [b"one", b"two"]
    assert asyncio.run(replay("logs=1&stderr=1")) == b"two\n"
    assert asyncio.run(replay("")) == b""


def test_a_log_that_is_larger_than_any_buffer_is_replayed_whole(engine: Daemon, program: str) -> None:
    engine.out("run", "-d", "--name", program, "bb", "sh", "-c", "seq 400000")
    engine.out("wait", program)

    async def replay() -> bytes:
        async with attached(engine, "logs=1&stdout=1") as client:
            return await heard(client)

    assert asyncio.run(replay()) == b"".join(b"%d\n" % number for number in range(1, 400_001))


def test_the_container_goes_on_when_a_client_only_drops_the_connection(engine: Daemon, program: str) -> None:
    engine.out("run", "-d", "--name", program, "bb", "sleep", "1000")

    async def drop() -> None:
        async with attached(engine, "stream=1&stdout=1") as client:
            assert client.get_extra_info("socket") is not None

    asyncio.run(drop())
    assert engine.out("inspect", "-f", "{{.State.Status}}", program) == "running"
