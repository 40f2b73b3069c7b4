"""What is kept of a container: its record in the database, whole after any crash.

The record holds the request as it was made (Docker's Config and HostConfig) and what became of it (State, mounts, networks). It is
written before the act that needs it; ``engine/recover.py`` compares it with reality at start.
"""

from __future__ import annotations

import msgspec

from wherry.containers.lifecycle import Status
from wherry.spec.docker.container import Config, HostConfig
from wherry.spec.docker.network import EndpointSettings


class State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where a container is in its life; times in nanoseconds since the epoch, 0 for never."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    restart_count: int = 0
    manually_stopped: bool = False
    boot_id: str = ""  # of the boot in which ``pid`` means something
    pid_start_ticks: int = 0  # /proc/PID/stat field 22: a pid that was used again is not ours


class MountRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One mount of a container, as resolved when it was created.  ``source``: a host path; ``name``: the volume's or image's."""

    type: str  # bind, volume, tmpfs, image
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    read_only: bool = False
    propagation: str = ""
    options: list[str] = msgspec.field(default_factory=list)  # for tmpfs: size=, mode= ...
    copy_up: bool = False
    anonymous: bool = False
    non_recursive: bool = False
    subpath: str = ""
    image_id: str = ""  # of the image that is mounted
    spec: str = "binds"  # binds, mounts or image: where the request named it


class ContainerRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything that outlives the daemon.  ``image_id`` is the config digest, ``config.image`` the reference that was asked for."""

    id: str
    name: str  # without the slash
    created_ns: int
    image_id: str
    config: Config
    host_config: HostConfig
    path: str
    args: list[str]
    state: State
    snapshot: str  # key of the writable layer
    chain: str | None = None  # the committed snapshot below it: the image's top layer
    mounts: list[MountRecord] = msgspec.field(default_factory=list)
    networks: dict[str, EndpointSettings] = msgspec.field(default_factory=dict)  # as asked for, by network name
    links: list[tuple[str, str]] = msgspec.field(default_factory=list)  # (container id, alias)
    platform: str = "linux"
    architecture: str = ""
