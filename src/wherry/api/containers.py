"""Handlers for containers."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator

from wherry.api import parameters, stream
from wherry.api.exchange import JSON, NO_CONTENT, Request, Response, reply
from wherry.api.ports import Operations
from wherry.api.websocket import Refused
from wherry.errors import InvalidRequest, NotSupported
from wherry.spec.docker.body import encode
from wherry.spec.docker.container import ContainerCreate, ContainerUpdate, PathStat
from wherry.spec.docker.request import ArchiveRequest, AttachRequest, LogRequest
from wherry.spec.docker.stats import ContainerStats

MOST_OF_A_BODY = 1 << 20
WAIT_CONDITIONS = ("not-running", "next-exit", "removed")
STAT_HEADER = "X-Docker-Container-Path-Stat"


async def list_all(engine: Operations, request: Request) -> Response:
    return reply(
        await engine.list_containers(
            all=request.flag("all"),
            limit=request.integer("limit"),
            size=request.flag("size"),
            filters=request.filters(),
            since=request.text("since"),
            before=request.text("before"),
        )
    )


async def create(engine: Operations, request: Request) -> Response:
    body = await request.json(ContainerCreate)
    if body == ContainerCreate():
        raise InvalidRequest("config cannot be empty in order to create a container")
    name = request.text("name").removeprefix("/")
    return reply(await engine.create_container(body, name=name, platform=request.text("platform")), 201)


async def inspect(engine: Operations, request: Request) -> Response:
    return reply(await engine.inspect_container(request.groups["id"], size=request.flag("size")))


async def top(engine: Operations, request: Request) -> Response:
    return reply(await engine.container_top(request.groups["id"], arguments=request.text("ps_args")))


async def logs(engine: Operations, request: Request) -> None:
    query = LogRequest(
        stdout=request.flag("stdout"),
        stderr=request.flag("stderr"),
        follow=request.flag("follow"),
        since_ns=parameters.moment_ns(request.text("since")),
        until_ns=parameters.moment_ns(request.text("until")),
        timestamps=request.flag("timestamps"),
        details=request.flag("details"),
        tail=parameters.tail(request.text("tail", "all")),
    )
    if not (query.stdout or query.stderr):
        raise InvalidRequest("Bad parameters: you must choose at least one stream")
    found = await engine.container_logs(request.groups["id"], query)
    await stream.send_live(request, stream.stream_type(request, tty=found.tty), found.chunks)


async def changes(engine: Operations, request: Request) -> None:
    await stream.send_chunks(request, JSON, await engine.container_changes(request.groups["id"]))


async def export(engine: Operations, request: Request) -> None:
    await stream.send_chunks(request, "application/octet-stream", await engine.export_container(request.groups["id"]))


async def stats(engine: Operations, request: Request) -> None:
    live, one_shot = request.flag("stream", default=True), request.flag("one-shot")
    if live and one_shot:
        raise InvalidRequest("cannot have stream=true and one-shot=true")
    samples = await engine.container_stats(request.groups["id"], stream=live, one_shot=one_shot)
    await stream.send_chunks(request, JSON, _lines(samples))


async def resize(engine: Operations, request: Request) -> Response:
    height, width = window_size(request)
    await engine.resize_container(request.groups["id"], height=height, width=width)
    return Response()


async def start(engine: Operations, request: Request) -> Response:
    if request.text("checkpoint"):
        raise NotSupported("checkpoints are not supported")
    if await request.body.read(MOST_OF_A_BODY):
        raise InvalidRequest("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
    await engine.start_container(request.groups["id"])
    return NO_CONTENT


async def stop(engine: Operations, request: Request) -> Response:
    await engine.stop_container(request.groups["id"], signal=request.text("signal"), timeout_s=request.optional_integer("t"))
    return NO_CONTENT


async def restart(engine: Operations, request: Request) -> Response:
    await engine.restart_container(request.groups["id"], signal=request.text("signal"), timeout_s=request.optional_integer("t"))
    return NO_CONTENT


async def kill(engine: Operations, request: Request) -> Response:
    await engine.kill_container(request.groups["id"], signal=request.text("signal") or "SIGKILL")
    return NO_CONTENT


async def update(engine: Operations, request: Request) -> Response:
    body = await request.json(ContainerUpdate, optional=True)
    if request.version < (1, 40):
        body.pids_limit = None  # these clients send 0 for what was not asked
    return reply(await engine.update_container(request.groups["id"], body))


async def rename(engine: Operations, request: Request) -> Response:
    await engine.rename_container(request.groups["id"], name=request.text("name").removeprefix("/"))
    return NO_CONTENT


async def pause(engine: Operations, request: Request) -> Response:
    await engine.pause_container(request.groups["id"])
    return NO_CONTENT


async def unpause(engine: Operations, request: Request) -> Response:
    await engine.unpause_container(request.groups["id"])
    return NO_CONTENT


async def attach(engine: Operations, request: Request) -> None:
    query = _attach_request(request, multiplexed=True)
    await request.body.read(0)
    await stream.serve_hijacked(request, lambda hijack: engine.attach_container(request.groups["id"], query, hijack))


async def attach_websocket(engine: Operations, request: Request) -> Response | None:
    query = _attach_request(request, multiplexed=False)
    await request.body.read(0)
    try:
        await stream.serve_websocket(
            request, lambda hijack: engine.attach_container(request.groups["id"], query, hijack), reads=query.stream and query.stdin
        )
    except Refused as refusal:
        return Response(status=400, body=str(refusal).encode(), headers=refusal.headers, bare=True)
    return None


async def wait(engine: Operations, request: Request) -> None:
    condition = request.text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidRequest(f'invalid condition: "{condition}"')
    ended = await engine.wait_container(request.groups["id"], condition=condition)
    answer = await request.start_stream(JSON)  # at once: a client starts the container only when it knows that we watch
    await answer.finish(encode(await ended))


async def remove(engine: Operations, request: Request) -> Response:
    await engine.remove_container(request.groups["id"], volumes=request.flag("v"), force=request.flag("force"), link=request.flag("link"))
    return NO_CONTENT


async def stat_path(engine: Operations, request: Request) -> Response:
    return Response(headers=_stat_header(await engine.stat_path(request.groups["id"], _path(request))))


async def get_archive(engine: Operations, request: Request) -> None:
    stat, chunks = await engine.get_archive(request.groups["id"], _path(request))
    await stream.send_chunks(request, stream.TAR, chunks, _stat_header(stat))


async def put_archive(engine: Operations, request: Request) -> Response:
    query = ArchiveRequest(path=_path(request), keep_kind=request.flag("noOverwriteDirNonDir"), copy_ids=request.flag("copyUIDGID"))
    await engine.put_archive(request.groups["id"], query, aiter(request.body))
    return Response()


async def prune(engine: Operations, request: Request) -> Response:
    return reply(await engine.prune_containers(request.filters()))


def window_size(request: Request) -> tuple[int, int]:
    """Height and width of a terminal."""
    sizes = []
    for name, meaning in (("h", "height"), ("w", "width")):
        text = request.text(name)
        if not re.fullmatch("-?[0-9]{1,20}", text):
            raise InvalidRequest(f'invalid resize {meaning} "{text}": invalid syntax')
        if not 0 <= int(text) < 1 << 16:
            raise InvalidRequest(f'invalid resize {meaning} "{text}": value out of range')
        sizes.append(int(text))
    return sizes[0], sizes[1]


def _attach_request(request: Request, *, multiplexed: bool) -> AttachRequest:
    return AttachRequest(
        stream=request.flag("stream"),
        logs=request.flag("logs"),
        stdin=request.flag("stdin"),
        stdout=request.flag("stdout"),
        stderr=request.flag("stderr"),
        detach_keys=request.text("detachKeys"),
        multiplexed=multiplexed,
    )


def _path(request: Request) -> str:
    path = request.text("path")
    if not path:
        raise InvalidRequest("bad parameter: pathcannot be empty")
    return path


def _stat_header(stat: PathStat) -> dict[str, str]:
    return {STAT_HEADER: base64.b64encode(encode(stat)[:-1]).decode()}


async def _lines(samples: AsyncIterator[ContainerStats]) -> AsyncIterator[bytes]:
    async for sample in samples:
        yield encode(sample)
