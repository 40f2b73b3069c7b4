"""Volume bodies.  Source: Engine API 1.51."""

from __future__ import annotations

from wherry.spec.docker.body import Body, shown


class VolumeUsage(Body):
    """Only in `system df`; ``size`` -1 where it is not known."""

    size: int = shown(-1)
    ref_count: int = shown(-1)


class Volume(Body):
    created_at: str = ""
    driver: str = shown("local")
    labels: dict[str, str] | None = shown(None)
    mountpoint: str = shown("")
    name: str = shown("")
    options: dict[str, str] | None = shown(None)
    scope: str = shown("local")
    usage_data: VolumeUsage | None = None


class VolumeList(Body):
    volumes: list[Volume] = shown([])
    warnings: list[str] | None = shown(None)


class VolumeCreate(Body):
    """POST /volumes/create.  An empty name asks for an anonymous one."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, object] | None = None


class VolumesPruned(Body):
    volumes_deleted: list[str] = shown([])
    space_reclaimed: int = shown(0)
