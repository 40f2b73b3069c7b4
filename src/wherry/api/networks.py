"""Handlers for networks."""

from __future__ import annotations

from wherry.api.exchange import NO_CONTENT, Request, Response, reply
from wherry.api.ports import Operations
from wherry.spec.docker.network import NetworkConnect, NetworkCreate, NetworkDisconnect


async def list_all(engine: Operations, request: Request) -> Response:
    return reply(await engine.list_networks(request.filters()))


async def inspect(engine: Operations, request: Request) -> Response:
    return reply(await engine.inspect_network(request.groups["id"], verbose=request.flag("verbose"), scope=request.text("scope")))


async def create(engine: Operations, request: Request) -> Response:
    return reply(await engine.create_network(await request.json(NetworkCreate, optional=True)), 201)


async def remove(engine: Operations, request: Request) -> Response:
    await engine.remove_network(request.groups["id"])
    return NO_CONTENT


async def connect(engine: Operations, request: Request) -> Response:
    await engine.connect_network(request.groups["id"], await request.json(NetworkConnect, optional=True))
    return Response()


async def disconnect(engine: Operations, request: Request) -> Response:
    await engine.disconnect_network(request.groups["id"], await request.json(NetworkDisconnect, optional=True))
    return Response()


async def prune(engine: Operations, request: Request) -> Response:
    return reply(await engine.prune_networks(request.filters()))
