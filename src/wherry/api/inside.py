"""Handlers for what is inside images: ``/wherry/v1/images/...``, which Docker does not have."""

from __future__ import annotations

from wherry.api import stream
from wherry.api.exchange import Request, Response, reply
from wherry.api.ports import Operations
from wherry.errors import InvalidRequest

LINES = "application/x-ndjson"


async def files(engine: Operations, request: Request) -> None:
    chunks = await engine.image_files(request.groups["name"], layer=request.integer("layer", 0))
    await stream.send_chunks(request, LINES, chunks)


async def layers(engine: Operations, request: Request) -> Response:
    return reply(await engine.image_layers(request.groups["name"]))


async def waste(engine: Operations, request: Request) -> None:
    await stream.send_chunks(request, LINES, await engine.image_waste(request.groups["name"]))


async def differences(engine: Operations, request: Request) -> None:
    old, new = request.text("from"), request.text("to")
    if not old or not new:
        raise InvalidRequest("two images are needed: `from` and `to`")
    await stream.send_chunks(request, LINES, await engine.image_differences(old, new))
