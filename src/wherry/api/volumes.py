"""Handlers for volumes."""

from __future__ import annotations

from wherry.api.exchange import NO_CONTENT, Request, Response, reply
from wherry.api.ports import Operations
from wherry.spec.docker.volume import VolumeCreate


async def list_all(engine: Operations, request: Request) -> Response:
    return reply(await engine.list_volumes(request.filters()))


async def inspect(engine: Operations, request: Request) -> Response:
    return reply(await engine.inspect_volume(request.groups["name"]))


async def create(engine: Operations, request: Request) -> Response:
    return reply(await engine.create_volume(await request.json(VolumeCreate, optional=True)), 201)


async def remove(engine: Operations, request: Request) -> Response:
    await engine.remove_volume(request.groups["name"], force=request.flag("force"))
    return NO_CONTENT


async def prune(engine: Operations, request: Request) -> Response:
    return reply(await engine.prune_volumes(request.filters()))
