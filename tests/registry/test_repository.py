"""Blobs from registries that break off; uploads and manifests are tested in tests/images, with a lying registry and a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from aiohttp import web
from tests.registry.scripted import Handler, Server, run

from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.transport import Patience, Refused, RegistryError
from wherry.spec.digest import sha256
from wherry.spec.image import Descriptor
from wherry.spec.reference import parse

BLOB = bytes(range(256)) * 32_000
LAYER = Descriptor(media_type="x", digest=sha256(BLOB), size=len(BLOB))
TWICE = Patience(connect_s=20, idle_s=20, retries=1, backoff_s=0.01)


async def download(stack: AsyncExitStack, answer: Handler, patience: Patience = TWICE) -> bytes:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response({}) if request.path == "/v2/" else await answer(request)

    server = await Server(handle).start(stack)
    client = Client(patience=patience)
    stack.push_async_callback(client.close)
    parts: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        parts.append(chunk)

    repository = client.repository(parse(f"{server.host}/x/y:1"), Credentials())
    await repository.download(LAYER, keep)
    return b"".join(parts)


def cutting(each: int, asked: list[str | None]) -> Handler:
    """Breaks off after ``each`` bytes, every time."""

    async def answer(request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        asked.append(wanted)
        start = int((wanted or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        response = web.StreamResponse(status=206 if wanted else 200, headers={"Content-Length": str(len(BLOB) - start)})
        if wanted:
            response.headers["Content-Range"] = f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"
        await response.prepare(request)
        await response.write(BLOB[start : start + each])
        if start + each < len(BLOB):
            assert request.transport is not None
            request.transport.close()
        return response

    return answer


def test_who_brings_something_each_time_is_asked_until_all_is_there() -> None:
    async def body(stack: AsyncExitStack) -> None:
        asked: list[str | None] = []
        assert await download(stack, cutting(2_000_000, asked)) == BLOB
        assert asked == [None, *(f"bytes={start}-" for start in range(2_000_000, len(BLOB), 2_000_000))]

    run(body)


def test_who_brings_next_to_nothing_is_asked_twice() -> None:
    async def body(stack: AsyncExitStack) -> None:
        asked: list[str | None] = []
        with pytest.raises(RegistryError, match="unexpected EOF: 200 of 8192000 bytes"):
            await download(stack, cutting(100, asked))
        assert asked == [None, "bytes=100-"]

    run(body)


def test_who_only_drips_is_given_up() -> None:
    async def body(stack: AsyncExitStack) -> None:
        asked = 0

        async def drip(request: web.Request) -> web.StreamResponse:
            nonlocal asked
            asked += 1
            response = web.StreamResponse(headers={"Content-Length": str(len(BLOB))})
            await response.prepare(request)
            for byte in BLOB:
                await response.write(bytes([byte]))
                await asyncio.sleep(0.02)
            return response

        with pytest.raises(RegistryError, match="i/o timeout"):
            await download(stack, drip, replace(TWICE, idle_s=0.3))
        assert asked == 2

    run(body)


def test_of_a_body_nothing_goes_on_when_its_upload_has_ended() -> None:
    async def body(stack: AsyncExitStack) -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": "/v2/x/y/blobs/uploads/1"})
            if request.method == "GET":
                return web.json_response({})
            await request.content.readany()
            if refuses:
                return web.Response(status=413)
            begun.set()
            await never.wait()
            return web.Response(status=201)

        server = await Server(handle).start(stack)
        client = Client(patience=TWICE)
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{server.host}/x/y:1"), Credentials(), push=True)
        ended = 0

        async def endless() -> AsyncGenerator[bytes, None]:
            nonlocal ended
            try:
                while True:
                    yield BLOB
                    await asyncio.sleep(0)
            finally:
                await asyncio.sleep(0.01)  # a thread that lets go
                ended += 1

        refuses = True
        with pytest.raises(Refused):
            await repository.upload(endless, LAYER.digest)
        assert ended == 1
        refuses = False
        for number in range(5):  # cancelled wherever it is
            uploading = asyncio.ensure_future(repository.upload(endless, LAYER.digest))
            await begun.wait()
            for _ in range(number):
                await asyncio.sleep(0)
            uploading.cancel()
            await asyncio.wait({uploading})
            assert ended == 2 + number
            begun.clear()
        never.set()

    run(body)


def test_what_fails_in_a_body_is_raised_at_once_as_it_is() -> None:
    class Ours(Exception):
        pass

    async def body(stack: AsyncExitStack) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            async for _ in request.content.iter_any():
                pass
            return web.Response(status=202 if request.method == "POST" else 200, headers={"Location": "/v2/x/y/blobs/uploads/1"})

        server = await Server(handle).start(stack)
        client = Client(patience=TWICE)
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{server.host}/x/y:1"), Credentials(), push=True)

        async def damaged() -> AsyncGenerator[bytes, None]:
            yield BLOB
            raise Ours

        with pytest.raises(Ours):
            await repository.upload(damaged, LAYER.digest)
        assert [method for method, _, _ in server.log].count("POST") == 1

    run(body)


@pytest.mark.parametrize("size", [len(BLOB), None])
@pytest.mark.parametrize(
    ("refusals", "sent"),
    [
        ([503], 2),
        ([429, 500], 3),
        ([503] * 4, 3),
        ([404], 2),
        ([400], 1),
    ],
)
def test_an_upload_that_a_registry_cannot_take_now_is_sent_again(size: int | None, refusals: list[int], sent: int) -> None:
    async def body(stack: AsyncExitStack) -> None:
        left = list(refusals)
        begun = 0

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": "/v2/x/y/blobs/uploads/1"})
            if request.method == "GET":
                return web.json_response({})
            async for _ in request.content.iter_any():
                pass
            if left:
                error = {"code": "BLOB_UPLOAD_UNKNOWN" if left[0] == 404 else "UNKNOWN", "message": "not now"}
                return web.json_response({"errors": [error]}, status=left.pop(0), headers={"Retry-After": "0"})
            return web.Response(status=202 if request.method == "PATCH" else 201, headers={"Location": "/v2/x/y/blobs/uploads/1"})

        async def pieces() -> AsyncGenerator[bytes, None]:
            nonlocal begun
            begun += 1
            yield BLOB

        server = await Server(handle).start(stack)
        client = Client(patience=replace(TWICE, retries=2))
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{server.host}/x/y:1"), Credentials(), push=True)
        if sent > len(refusals):
            await repository.upload(pieces, LAYER.digest, size=size)
        else:
            with pytest.raises(Refused, match="not now"):
                await repository.upload(pieces, LAYER.digest, size=size)
        assert begun == sent
        assert [method for method, _, _ in server.log].count("POST") == sent

    run(body)
