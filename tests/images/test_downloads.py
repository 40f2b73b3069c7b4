"""Blobs on their way, from registries in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from wherry.images.downloads import Downloads
from wherry.images.flights import Flights
from wherry.registry.credentials import Credentials
from wherry.registry.transport import Patience
from wherry.spec.digest import sha256
from wherry.spec.image import Descriptor
from wherry.spec.reference import parse

pytestmark = pytest.mark.root
Experiment = Callable[..., None]
BLOB = bytes(range(256)) * 4000
LAYER = Descriptor(media_type="x", digest=sha256(BLOB), size=len(BLOB))


def _downloads(lab: Any, group: asyncio.TaskGroup) -> Downloads:
    spawn = group.create_task
    partials = lab.images.partials
    return Downloads(content=lab.content, partials=partials, flights=Flights(spawn), spawn=spawn, run=lab.workers.run, keeps_blobs=False)


def _repository(lab: Any, host: str) -> Any:
    return lab.registry.repository(parse(f"{host}/x/y:1"), Credentials())


def _read(downloads: Downloads, download: Any, stop: threading.Event) -> bytes:
    with downloads.open(download, stop) as file:
        return b"".join(iter(lambda: file.read(100_000), b""))


def _ignore(done: int) -> None:
    pass


def test_a_blob_is_read_while_it_comes_and_goes_when_it_has_served(experiment: Experiment) -> None:
    async def body(lab: Any, fake: Any) -> None:
        half, go = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(BLOB))})
            await response.prepare(request)
            await response.write(BLOB[:512_000])
            half.set()
            await go.wait()
            await response.write(BLOB[512_000:])
            return response

        fake.answers["/blobs/"] = slow
        async with asyncio.TaskGroup() as group:
            downloads, repository = _downloads(lab, group), _repository(lab, fake.host)
            for served in (False, True):
                go.clear()
                async with downloads.wanting(repository, [LAYER, LAYER]) as mine:
                    download = mine[LAYER.digest]
                    fetching = asyncio.ensure_future(downloads.fetch(repository, download, _ignore))
                    reading = asyncio.ensure_future(lab.attendants.run(_read, downloads, download, threading.Event()))
                    await half.wait()
                    assert not reading.done()
                    go.set()
                    await fetching
                    assert await reading == BLOB
                    download.served = served
                assert lab.images.partials.sizes() == ({} if served else {LAYER.digest: len(BLOB)})
            assert fake.count("/blobs/") == 1  # what had not served was there for the second round

    experiment(body)


def test_a_registry_that_withholds_a_blob_keeps_nobody_from_getting_it_elsewhere(experiment: Experiment) -> None:
    async def body(lab: Any, fake: Any) -> None:
        stuck = asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse:
            if request.host.startswith("localhost"):
                stuck.set()
                await asyncio.sleep(3600)
            return web.Response(body=BLOB)

        fake.answers["/blobs/"] = answer
        elsewhere = _repository(lab, fake.host.replace("127.0.0.1", "localhost"))
        async with asyncio.TaskGroup() as group:
            downloads, repository = _downloads(lab, group), _repository(lab, fake.host)
            async with downloads.wanting(elsewhere, [LAYER]) as theirs, downloads.wanting(repository, [LAYER]) as mine:
                waiting = asyncio.ensure_future(downloads.fetch(elsewhere, theirs[LAYER.digest], _ignore))
                await stuck.wait()
                await downloads.fetch(repository, mine[LAYER.digest], _ignore)
                waiting.cancel()
                await asyncio.wait({waiting})

    experiment(body, Patience(idle_s=60, backoff_s=0.01))


def _left_open() -> list[str]:
    """The partial files that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if "/partial/" in path]


@pytest.mark.parametrize("served", [False, True])
def test_whoever_is_cancelled_while_leaving_leaves_nothing_open(experiment: Experiment, served: bool) -> None:
    blobs = [bytes([number]) * 1000 for number in range(4)]
    layers = [Descriptor(media_type="x", digest=sha256(blob), size=len(blob)) for blob in blobs]

    async def body(lab: Any, fake: Any) -> None:
        for blob in blobs:
            fake.blobs[sha256(blob)] = blob
        async with asyncio.TaskGroup() as group:
            downloads, repository = _downloads(lab, group), _repository(lab, fake.host)

            async def pull() -> None:
                async with downloads.wanting(repository, layers) as mine:
                    for download in mine.values():
                        await downloads.fetch(repository, download, _ignore)
                        download.served = served
                    asyncio.get_running_loop().call_soon(pulling.cancel)

            pulling = asyncio.ensure_future(pull())
            await asyncio.wait({pulling})
            assert pulling.cancelled()
        assert _left_open() == []
        assert len(lab.images.partials.sizes()) == (0 if served else len(blobs))

    experiment(body)
