"""Image bodies: inspect, list, history, delete, prune, distribution.  Source: Engine API 1.51."""

from __future__ import annotations

from typing import Annotated

from wherry.spec.docker.body import WORDS, Body, shown
from wherry.spec.docker.container import Config, GraphDriver, Healthcheck, Nothing


class ImageConfig(Body):
    """The ``Config`` of an image as inspect shows it."""

    args_escaped: bool = False
    cmd: Annotated[list[str], WORDS] | None = shown(None)
    entrypoint: Annotated[list[str], WORDS] | None = shown(None)
    env: list[str] | None = shown(None)
    exposed_ports: dict[str, Nothing | None] | None = None
    healthcheck: Healthcheck | None = None
    labels: dict[str, str] | None = shown(None)
    on_build: list[str] | None = shown(None)
    shell: list[str] | None = None
    stop_signal: str = ""
    user: str = shown("")
    volumes: dict[str, Nothing | None] | None = shown(None)
    working_dir: str = shown("")


class OldImageConfig(ImageConfig):
    """With what images had in common with containers, before API 1.50."""

    attach_stderr: bool = shown(False)
    attach_stdin: bool = shown(False)
    attach_stdout: bool = shown(False)
    domainname: str = shown("")
    hostname: str = shown("")
    image: str = shown("")
    open_stdin: bool = shown(False)
    stdin_once: bool = shown(False)
    tty: bool = shown(False)


class RootFS(Body):
    type: str = shown("layers")
    layers: list[str] | None = None


class ImageMetadata(Body):
    last_tag_time: str = shown("0001-01-01T00:00:00Z")


class ImageInspect(Body):
    """GET /images/{name}/json."""

    id: str = shown("")
    repo_tags: list[str] = shown([])
    repo_digests: list[str] = shown([])
    parent: str = shown("")
    comment: str = shown("")
    created: str = ""
    container_config: Config | None = None  # only before API 1.45
    docker_version: str = shown("")
    author: str = shown("")
    architecture: str = shown("")
    variant: str = ""
    os: str = shown("linux")
    os_version: str = ""
    size: int = shown(0)
    virtual_size: int = 0  # only before API 1.44
    graph_driver: GraphDriver = shown(GraphDriver())
    root_fs: RootFS = shown(RootFS(), "RootFS")
    metadata: ImageMetadata = shown(ImageMetadata())
    config: ImageConfig | None = shown(None)


class ImageSummary(Body):
    """One of GET /images/json.  ``shared_size`` and ``containers`` are -1 where they were not counted."""

    containers: int = shown(-1)
    created: int = shown(0)
    id: str = shown("")
    labels: dict[str, str] | None = shown(None)
    parent_id: str = shown("")
    repo_digests: list[str] | None = shown([])
    repo_tags: list[str] | None = shown([])
    shared_size: int = shown(-1)
    size: int = shown(0)
    virtual_size: int = 0  # only before API 1.44


class HistoryEntry(Body):
    """``id`` is ``<missing>`` for a layer without an image here."""

    comment: str = shown("")
    created: int = shown(0)
    created_by: str = shown("")
    id: str = shown("<missing>")
    size: int = shown(0)
    tags: list[str] | None = shown(None)


class ImageDeleted(Body):
    """One step of a removal: exactly one of the two is set."""

    untagged: str = ""
    deleted: str = ""


class ImagesPruned(Body):
    images_deleted: list[ImageDeleted] | None = shown(None)
    space_reclaimed: int = shown(0)


class IdCreated(Body):
    """Answer of POST /commit."""

    id: str = shown("")


class SearchResult(Body, rename="lower"):
    star_count: int = shown(0, "star_count")
    is_official: bool = shown(False, "is_official")
    name: str = shown("")
    is_automated: bool = shown(False, "is_automated")
    description: str = shown("")


class Descriptor(Body, rename="camel"):
    media_type: str = shown("")
    digest: str = shown("")
    size: int = shown(0)


class Platform(Body, rename="lower"):
    architecture: str = shown("")
    os: str = shown("")
    variant: str = ""


class Distribution(Body):
    """GET /distribution/{name}/json."""

    descriptor: Descriptor = shown(Descriptor())
    platforms: list[Platform] = shown([])
