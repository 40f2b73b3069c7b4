"""Handlers for images and registries."""

from __future__ import annotations

import msgspec

from wherry.api import parameters, stream
from wherry.api.exchange import NO_CONTENT, Request, Response, reply
from wherry.api.ports import Operations
from wherry.errors import InvalidRequest
from wherry.spec.docker.container import Config
from wherry.spec.docker.image import IdCreated, OldImageConfig
from wherry.spec.docker.request import CommitRequest, ImportRequest
from wherry.spec.docker.system import AuthConfig

AUTH_HEADER = "x-registry-auth"
SEARCH_LIMIT = 25


async def list_all(engine: Operations, request: Request) -> Response:
    filters = request.filters()
    if request.version < (1, 41) and request.text("filter"):
        filters = {**filters, "reference": (request.text("filter"),)}
    counted = request.version >= (1, 51)
    found = await engine.list_images(all=request.flag("all"), filters=filters, shared_size=request.flag("shared-size"), containers=counted)
    for image in found:
        if request.version < (1, 44):
            image.virtual_size = image.size
        if request.version < (1, 43) and not image.repo_tags and not image.repo_digests:
            image.repo_tags, image.repo_digests = ["<none>:<none>"], ["<none>@<none>"]
    return reply(found)


async def inspect(engine: Operations, request: Request) -> Response:
    platform = parameters.platform(request.text("platform"))
    if platform is not None and request.flag("manifests"):
        raise InvalidRequest("conflicting options: manifests and platform options cannot both be set")
    image = await engine.inspect_image(request.groups["name"], platform=platform)
    if request.version < (1, 44):
        image.virtual_size = image.size
    if request.version < (1, 45):
        image.container_config = Config(labels=None)  # empty, as Docker's: old clients look into it
    if request.version < (1, 50) and image.config is not None:
        image.config = OldImageConfig(**msgspec.structs.asdict(image.config))
    return reply(image, escape_html=True)


async def history(engine: Operations, request: Request) -> Response:
    return reply(await engine.image_history(request.groups["name"], platform=parameters.platform(request.text("platform"))))


async def create(engine: Operations, request: Request) -> None:
    """Pull, or import."""
    source, platform = request.text("fromSrc"), request.text("platform")
    if source:
        imported = ImportRequest(
            source=source,
            repo=request.text("repo"),
            tag=request.text("tag"),
            message=request.text("message"),
            changes=tuple(request.values("changes")),
            platform=platform,
        )
        await stream.send_progress(request, await engine.import_image(imported, aiter(request.body)))
        return
    name = request.text("fromImage")
    if not name:
        raise InvalidRequest("invalid reference format")
    records = await engine.pull_image(name, tag=request.text("tag"), platform=platform, auth=_auth(request))
    await stream.send_progress(request, records)


async def push(engine: Operations, request: Request) -> None:
    platform = parameters.platform(request.text("platform"))
    records = await engine.push_image(request.groups["name"], tag=request.text("tag"), platform=platform, auth=_auth(request))
    await stream.send_progress(request, records)


async def tag(engine: Operations, request: Request) -> Response:
    await engine.tag_image(request.groups["name"], repo=request.text("repo"), tag=request.text("tag"))
    return Response(status=201)


async def remove(engine: Operations, request: Request) -> Response:
    platforms = request.values("platforms")
    if len(platforms) > 1:
        raise InvalidRequest("multiple platforms are not supported")
    platform = parameters.platform(platforms[0]) if platforms else None
    gone = await engine.remove_image(
        request.groups["name"], force=request.flag("force"), prune=not request.flag("noprune"), platform=platform
    )
    return reply(gone)


async def prune(engine: Operations, request: Request) -> Response:
    return reply(await engine.prune_images(request.filters()))


async def search(engine: Operations, request: Request) -> Response:
    limit = _limit(request.text("limit"))
    return reply(await engine.search_images(request.text("term"), limit=limit, filters=request.filters(), auth=_auth(request)))


def _limit(text: str) -> int:
    try:
        limit = parameters.integer(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid limit specified: {error}") from error
    return limit if limit > 0 else SEARCH_LIMIT


async def save(engine: Operations, request: Request) -> None:
    names = [request.groups["name"]] if "name" in request.groups else request.values("names")
    chunks = await engine.save_images(names, platform=parameters.platform(request.text("platform")))
    await stream.send_chunks(request, stream.TAR, chunks)


async def load(engine: Operations, request: Request) -> None:
    platform = parameters.platform(request.text("platform"))
    records = await engine.load_images(aiter(request.body), quiet=request.flag("quiet"), platform=platform)
    await stream.send_progress(request, records, begun=True)  # as Docker: what is wrong with an archive is told in the stream


async def commit(engine: Operations, request: Request) -> Response:
    query = CommitRequest(
        container=request.text("container"),
        repo=request.text("repo"),
        tag=request.text("tag"),
        comment=request.text("comment"),
        author=request.text("author"),
        pause=request.flag("pause", default=True),
        changes=tuple(request.values("changes")),
    )
    config = await request.json(Config, optional=True)
    return reply(IdCreated(id=await engine.commit_container(query, None if config == Config() else config)), 201)


async def distribution(engine: Operations, request: Request) -> Response:
    return reply(await engine.inspect_distribution(request.groups["name"], auth=_auth(request)))


async def check_auth(engine: Operations, request: Request) -> Response:
    answer = await engine.check_auth(await request.json(AuthConfig, optional=True))
    return reply(answer) if answer.status else NO_CONTENT


def _auth(request: Request) -> AuthConfig | None:
    return parameters.registry_auth(request.head.headers.get(AUTH_HEADER, ""))
