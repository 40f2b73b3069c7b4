"""Handlers for building."""

from __future__ import annotations

import asyncio
import socket

from wherry.api import grpc, parameters, stream
from wherry.api.exchange import Request, Response, reply
from wherry.api.ports import Operations
from wherry.errors import InvalidRequest, NotSupported
from wherry.spec.docker.build import BuildParameters
from wherry.spec.docker.container import Ulimit
from wherry.spec.docker.request import CachePrune

NO_BUILDKIT = "the BuildKit protocol is not supported: build with DOCKER_BUILDKIT=0"


async def build(engine: Operations, request: Request) -> None:
    if request.text("version") == "2":
        raise NotSupported(NO_BUILDKIT)
    auths = parameters.registry_config(request.head.headers.get("x-registry-config", ""))
    await stream.send_progress(request, await engine.build_image(build_parameters(request), auths, aiter(request.body)))


def build_parameters(request: Request) -> BuildParameters:
    """The query of POST /build."""
    text, integer, flag = request.text, request.integer, request.flag
    return BuildParameters(
        dockerfile=text("dockerfile") or "Dockerfile",
        tags=request.values("t"),
        remote=text("remote"),
        target=text("target"),
        platform=text("platform"),
        build_args=parameters.json_value(text("buildargs"), dict[str, str | None], {}, "build args"),
        labels=parameters.json_value(text("labels"), dict[str, str], {}, "labels"),
        cache_from=parameters.json_value(text("cachefrom"), list[str], [], "cache-from"),
        extra_hosts=request.values("extrahosts"),
        network_mode=text("networkmode"),
        no_cache=flag("nocache"),
        pull=flag("pull"),
        quiet=flag("q"),
        remove=flag("rm", default=True),
        force_remove=flag("forcerm"),
        squash=flag("squash"),
        memory=integer("memory"),
        memory_swap=integer("memswap"),
        cpu_shares=integer("cpushares"),
        cpuset_cpus=text("cpusetcpus"),
        cpuset_mems=text("cpusetmems"),
        cpu_period=integer("cpuperiod"),
        cpu_quota=integer("cpuquota"),
        shm_size=integer("shmsize"),
        cgroup_parent=text("cgroupparent"),
        security_opt=request.values("securityopt"),
        ulimits=parameters.json_value(text("ulimits"), list[Ulimit], [], "ulimits"),
        isolation=text("isolation"),
        outputs=text("outputs"),
        build_id=text("buildid"),
        progress=text("progress"),
    )


async def cancel(engine: Operations, request: Request) -> Response:
    if not request.text("id"):
        raise InvalidRequest("build ID not provided")
    await engine.cancel_build(request.text("id"))
    return Response()


async def prune(engine: Operations, request: Request) -> Response:
    return reply(await engine.prune_build_cache(cache_query(request), request.filters()))


def cache_query(request: Request) -> CachePrune:
    return CachePrune(
        all=request.flag("all"),
        reserved_space=request.integer("reserved-space") or request.integer("keep-storage"),
        max_used_space=request.integer("max-used-space"),
        min_free_space=request.integer("min-free-space"),
    )


async def session(engine: Operations, request: Request) -> Response | None:
    """POST /session and /grpc: BuildKit's own protocol, which is refused in its own terms."""
    if request.head.headers.get("upgrade") != "h2c":
        raise NotSupported(NO_BUILDKIT)
    taken = await request.take_over(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=taken.fd))
    reader.feed_data(taken.leftover)
    try:
        await grpc.refuse_calls(reader, writer, NO_BUILDKIT)
    finally:
        writer.close()
    return None
