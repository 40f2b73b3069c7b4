"""Build bodies: the parameters of POST /build and the build cache.  Source: Engine API 1.51."""

from __future__ import annotations

from msgspec import field

from wherry.spec.docker.body import Body, shown
from wherry.spec.docker.container import Ulimit


class BuildParameters(Body):
    """Everything POST /build takes from the query.

    ``build_args``: None takes the ARG's default; ``labels`` are added to the image; ``cpuset_*``, ``memory`` and so on bound RUN steps;
    ``progress``: ``plain`` for BuildKit's plain text instead of the classic builder's, a word of ours.
    """

    dockerfile: str = "Dockerfile"
    tags: list[str] = field(default_factory=list)
    remote: str = ""
    target: str = ""
    platform: str = ""
    build_args: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    cache_from: list[str] = field(default_factory=list)
    extra_hosts: list[str] = field(default_factory=list)
    network_mode: str = ""
    no_cache: bool = False
    pull: bool = False
    quiet: bool = False
    remove: bool = True
    force_remove: bool = False
    squash: bool = False
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cpu_period: int = 0
    cpu_quota: int = 0
    shm_size: int = 0
    cgroup_parent: str = ""
    security_opt: list[str] = field(default_factory=list)
    ulimits: list[Ulimit] = field(default_factory=list)
    isolation: str = ""
    outputs: str = ""
    build_id: str = ""
    progress: str = ""


class BuildCacheRecord(Body):
    """One entry of the build cache in `system df`."""

    id: str = shown("", "ID")
    parents: list[str] | None = field(default=None, name=" Parents")  # with the blank: Docker's own slip, which clients read
    type: str = shown("")
    description: str = shown("")
    in_use: bool = shown(False)
    shared: bool = shown(False)
    size: int = shown(0)
    created_at: str = shown("")
    last_used_at: str | None = shown(None)
    usage_count: int = shown(0)


class BuildPruned(Body):
    caches_deleted: list[str] | None = shown(None)
    space_reclaimed: int = shown(0)
