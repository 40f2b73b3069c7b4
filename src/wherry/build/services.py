"""What a build is given: the request, and the few services of other rooms it works with.

The engine makes both; ``build.solve.build`` takes them. Read ``solve`` next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

from wherry.build.context import Source
from wherry.runtime.supervisor import Supervisor
from wherry.spec.docker.container import Ulimit
from wherry.spec.image import ImageConfig
from wherry.spec.mounts import Rootfs
from wherry.spec.settings import Settings
from wherry.store.parsing import Start, inline
from wherry.store.records import Records
from wherry.store.snapshot import Snapshotter

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the containers that RUN steps run in; 0 and empty mean none.  Sizes in bytes, names as in Docker's HostConfig."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size: int = 0
    cgroup_parent: str = ""
    ulimits: tuple[Ulimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build.  ``context`` is closed by whoever asks.

    ``dockerfile``: its path in there, or, with ``dockerfile_bytes``, only its name.

    ``build_args``: a value of None leaves the ARG its default. ``secrets``: id -> content, for RUN --mount=type=secret.
    ``pull``: ask the registry for a newer base even when there is one.
    """

    context: Source
    dockerfile: str = "Dockerfile"
    dockerfile_bytes: bytes | None = None
    tags: tuple[str, ...] = ()
    target: str = ""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    no_cache: bool = False
    pull: bool = False
    quiet: bool = False
    squash: bool = False
    network_mode: str = ""
    extra_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    secrets: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """``image_id`` is ``sha256:...``; ``tags`` as shown (``name:tag``); ``steps_cached`` of ``steps`` were not carried out again."""

    image_id: str
    tags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    steps: int = 0
    steps_cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The container of one RUN step, for which the engine makes the OCI config.

    ``mounts``: OCI mount objects beside the usual ones. ``network``: default, none or host. ``user`` is resolved by the first process.
    """

    id: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    network: str
    hostname: str
    mounts: tuple[dict[str, Any], ...]
    extra_hosts: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSandbox:
    """What the engine made for a RUN step; ``cleanup`` is called exactly once, whatever happened."""

    config: dict[str, Any]
    netns_fd: int | None
    cleanup: Callable[[], Awaitable[None]]


class BaseImage(Protocol):
    """As much of ``images.Image`` as a build reads."""

    @property
    def id(self) -> str: ...
    @property
    def config(self) -> ImageConfig: ...
    @property
    def chain_ids(self) -> Sequence[str]: ...


class Register(Protocol):
    """``images.register``: blocking, it waits for the disk."""

    def __call__(self, config: bytes, *, parent: str | None = None, tags: Sequence[str] = ()) -> BaseImage: ...


class Pull(Protocol):
    """``images.pull``: progress records as Docker streams them."""

    def __call__(self, reference: str, *, platform: str = "") -> AsyncIterator[dict[str, Any]]: ...


class Blocking(Protocol):
    """``Workers.run``: a blocking function in a thread, which may take as long as the files of a step."""

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


async def undressed(rootfs: Rootfs, chain: str | None) -> Rootfs:
    """A root as it is."""
    return rootfs


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildServices:
    """Other rooms, as callables and objects; one value for the daemon's whole life.

    ``sandbox``: OCI config and network for a RUN step. ``dress``: puts under a step's own layer the mount points that every container
    needs, so that they do not end up in the image. ``start``: where archives are read. ``mount_locks``: who holds which cache mount.
    ``reason``: how a failed download is told.
    """

    settings: Settings
    snapshotter: Snapshotter
    records: Records
    supervisor: Supervisor
    resolve: Callable[[str], BaseImage]
    register: Register
    pull: Pull
    sandbox: Callable[[RunSpec], Awaitable[RunSandbox]]
    blocking: Blocking
    start: Start = inline
    dress: Callable[[Rootfs, str | None], Awaitable[Rootfs]] = undressed
    reason: Callable[[BaseException], str] = str
    mount_locks: dict[str, asyncio.Lock] = field(default_factory=dict)
