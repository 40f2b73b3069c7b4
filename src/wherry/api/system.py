"""Handlers for the daemon itself, and the clear refusals of what Wherry does not do."""

from __future__ import annotations

from collections.abc import AsyncIterator

from wherry.api import parameters, stream
from wherry.api.builds import cache_query
from wherry.api.exchange import JSON, TEXT, Request, Response, reply
from wherry.api.ports import Operations
from wherry.errors import InvalidRequest, NotSupported, Unavailable
from wherry.spec.docker.body import encode
from wherry.spec.docker.event import Event

PING_HEADERS = {
    "Builder-Version": "1",  # the classic builder: BuildKit's protocol is not spoken
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Content-Type": TEXT,
    "Pragma": "no-cache",
    "Swarm": "inactive",
}
DISK_USAGE_KINDS = frozenset({"container", "image", "volume", "build-cache"})
PRUNED_KINDS = ("containers", "networks", "volumes", "images", "build-cache")
NO_SWARM = 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'


async def ping(engine: Operations, request: Request) -> Response:
    return Response(body=b"" if request.head.method == "HEAD" else b"OK", headers=PING_HEADERS)


async def info(engine: Operations, request: Request) -> Response:
    return reply(await engine.info())


async def version(engine: Operations, request: Request) -> Response:
    return reply(await engine.version())


async def disk_usage(engine: Operations, request: Request) -> Response:
    kinds = frozenset(request.values("type"))
    for kind in sorted(kinds - DISK_USAGE_KINDS):
        raise InvalidRequest(f"unknown object type: {kind}")
    usage = await engine.disk_usage(kinds)
    if request.version < (1, 44):
        for image in usage.images or ():
            image.virtual_size = image.size
    if request.version < (1, 42):
        usage.builder_size = sum(record.size for record in usage.build_cache or ())
    return reply(usage)


async def disk_parts(engine: Operations, request: Request) -> Response:
    return reply(await engine.disk_parts())


async def preview_prune(engine: Operations, request: Request) -> Response:
    wanted = {kind: parameters.filters(request.text(kind)) for kind in PRUNED_KINDS if request.values(kind)}
    if not wanted:
        raise InvalidRequest(f"nothing to look at: name one of {', '.join(PRUNED_KINDS)} with its filters")
    return reply(await engine.preview_prune(wanted, cache_query(request)))


async def check_store(engine: Operations, request: Request) -> None:
    found = await engine.check_store(quick=request.flag("quick"), repair=request.flag("repair"))
    await stream.send_live(request, JSON, found)


async def events(engine: Operations, request: Request) -> None:
    since, until = (parameters.moment_ns(request.text(name)) for name in ("since", "until"))
    if request.text("until") and since > until:
        asked, end = (request.text(name).partition(".")[0] for name in ("since", "until"))
        raise InvalidRequest(f"`since` time ({asked}) cannot be after `until` time ({end})")
    found = await engine.events(since_ns=since, until_ns=until, filters=request.filters())
    await stream.send_live(request, JSON, _lines(found))


async def options(engine: Operations, request: Request) -> Response:
    return Response()


async def plugins(engine: Operations, request: Request) -> Response:
    return reply([])


async def no_plugins(engine: Operations, request: Request) -> Response:
    raise NotSupported("plugins are not supported")


async def no_swarm(engine: Operations, request: Request) -> Response:
    raise Unavailable(NO_SWARM)


async def no_checkpoints(engine: Operations, request: Request) -> Response:
    raise NotSupported("checkpoints are not supported")


async def no_cluster_volumes(engine: Operations, request: Request) -> Response:
    raise Unavailable(NO_SWARM)


async def _lines(found: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in found:
        yield encode(event)
