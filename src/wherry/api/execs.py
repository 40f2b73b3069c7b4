"""Handlers for execs."""

from __future__ import annotations

from wherry.api import stream
from wherry.api.containers import window_size
from wherry.api.exchange import Request, Response, reply
from wherry.api.ports import Operations
from wherry.errors import InvalidRequest
from wherry.spec.docker.exec import ExecCreate, ExecCreated, ExecStart


async def create(engine: Operations, request: Request) -> Response:
    body = await request.json(ExecCreate, optional=True)
    if not body.cmd:
        raise InvalidRequest("No exec command specified")
    return reply(ExecCreated(id=await engine.create_exec(request.groups["id"], body)), 201)


async def start(engine: Operations, request: Request) -> Response | None:
    body = await request.json(ExecStart, optional=True)
    if body.detach:
        await engine.start_exec(request.groups["id"], body, None)
        return Response()
    await stream.serve_hijacked(request, lambda hijack: engine.start_exec(request.groups["id"], body, hijack))
    return None


async def resize(engine: Operations, request: Request) -> Response:
    height, width = window_size(request)
    await engine.resize_exec(request.groups["id"], height=height, width=width)
    return Response()


async def inspect(engine: Operations, request: Request) -> Response:
    return reply(await engine.inspect_exec(request.groups["id"]))
