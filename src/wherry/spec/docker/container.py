"""Container bodies: create, inspect, list, update, wait, top, changes, stats, archive.  Source: Engine API 1.51."""

from __future__ import annotations

from typing import Annotated

from msgspec import field

from wherry.spec.docker.body import WORDS, Body, shown
from wherry.spec.docker.network import EndpointSettings

ZERO_TIME = "0001-01-01T00:00:00Z"

Words = Annotated[list[str], WORDS]
Nothing = dict[str, object]  # the empty object that stands for membership in Docker's maps


class Healthcheck(Body):
    """``test``: empty inherits, ["NONE"], ["CMD", ...] or ["CMD-SHELL", text].  Durations in nanoseconds; 0 inherits."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Config(Body):
    """What the program is: the part of a container that `commit` turns into an image."""

    hostname: str = shown("")
    domainname: str = shown("")
    user: str = shown("")
    attach_stdin: bool = shown(False)
    attach_stdout: bool = shown(False)
    attach_stderr: bool = shown(False)
    exposed_ports: dict[str, Nothing | None] | None = None
    tty: bool = shown(False)
    open_stdin: bool = shown(False)
    stdin_once: bool = shown(False)
    env: list[str] | None = shown(None)
    cmd: Words | None = shown(None)
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = shown("")
    volumes: dict[str, Nothing | None] | None = shown(None)
    working_dir: str = shown("")
    entrypoint: Words | None = shown(None)
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = shown(None)
    labels: dict[str, str] | None = shown({})
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: Words | None = None


class LogConfig(Body):
    type: str = shown("")
    config: dict[str, str] | None = shown({})


class PortBinding(Body):
    """A host address and port, both text; an empty port asks for any."""

    host_ip: str = shown("")
    host_port: str = shown("")


class RestartPolicy(Body):
    name: str = shown("")
    maximum_retry_count: int = shown(0)


class WeightDevice(Body):
    path: str = shown("")
    weight: int = shown(0)


class ThrottleDevice(Body):
    path: str = shown("")
    rate: int = shown(0)


class DeviceMapping(Body):
    path_on_host: str = shown("")
    path_in_container: str = shown("")
    cgroup_permissions: str = shown("")


class DeviceRequest(Body):
    driver: str = shown("")
    count: int = shown(0)
    device_ids: list[str] | None = shown(None, "DeviceIDs")
    capabilities: list[list[str]] | None = shown(None)
    options: dict[str, str] | None = shown(None)


class Ulimit(Body):
    name: str = shown("")
    hard: int = shown(0)
    soft: int = shown(0)


class BindOptions(Body):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(Body):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Body):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: VolumeDriverConfig | None = None


class ImageOptions(Body):
    subpath: str = ""


class TmpfsOptions(Body):
    """``mode``: permission bits as a plain number."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class ClusterOptions(Body):
    pass


class Mount(Body):
    """``type``: bind, volume, tmpfs, image, npipe or cluster."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: ClusterOptions | None = None


class HostConfig(Body):
    """How the host runs it: everything that does not travel with the image."""

    binds: list[str] | None = shown(None)
    container_id_file: str = shown("", "ContainerIDFile")
    log_config: LogConfig = shown(LogConfig())
    network_mode: str = shown("")
    port_bindings: dict[str, list[PortBinding] | None] | None = shown(None)
    restart_policy: RestartPolicy = shown(RestartPolicy())
    auto_remove: bool = shown(False)
    volume_driver: str = shown("")
    volumes_from: list[str] | None = shown(None)
    console_size: tuple[int, int] = shown((0, 0))  # height, width
    annotations: dict[str, str] | None = None
    cap_add: Words | None = shown(None)
    cap_drop: Words | None = shown(None)
    cgroupns_mode: str = shown("")
    dns: list[str] | None = shown(None)
    dns_options: list[str] | None = shown(None)
    dns_search: list[str] | None = shown(None)
    extra_hosts: list[str] | None = shown(None)
    group_add: list[str] | None = shown(None)
    ipc_mode: str = shown("")
    cgroup: str = shown("")
    links: list[str] | None = shown(None)
    oom_score_adj: int = shown(0)
    pid_mode: str = shown("")
    privileged: bool = shown(False)
    publish_all_ports: bool = shown(False)
    readonly_rootfs: bool = shown(False)
    security_opt: list[str] | None = shown(None)
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = shown("", "UTSMode")
    userns_mode: str = shown("")
    shm_size: int = shown(0)
    sysctls: dict[str, str] | None = None
    runtime: str = shown("")
    isolation: str = shown("")
    cpu_shares: int = shown(0)
    memory: int = shown(0)
    nano_cpus: int = shown(0)
    cgroup_parent: str = shown("")
    blkio_weight: int = shown(0)
    blkio_weight_device: list[WeightDevice] | None = shown(None)
    blkio_device_read_bps: list[ThrottleDevice] | None = shown(None)
    blkio_device_write_bps: list[ThrottleDevice] | None = shown(None)
    blkio_device_read_iops: list[ThrottleDevice] | None = shown(None, "BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] | None = shown(None, "BlkioDeviceWriteIOps")
    cpu_period: int = shown(0)
    cpu_quota: int = shown(0)
    cpu_realtime_period: int = shown(0)
    cpu_realtime_runtime: int = shown(0)
    cpuset_cpus: str = shown("")
    cpuset_mems: str = shown("")
    devices: list[DeviceMapping] | None = shown(None)
    device_cgroup_rules: list[str] | None = shown(None)
    device_requests: list[DeviceRequest] | None = shown(None)
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = shown(0)
    memory_swap: int = shown(0)
    memory_swappiness: int | None = shown(None)
    oom_kill_disable: bool | None = shown(None)
    pids_limit: int | None = shown(None)
    ulimits: list[Ulimit] | None = shown(None)
    cpu_count: int = shown(0)
    cpu_percent: int = shown(0)
    io_maximum_iops: int = shown(0, "IOMaximumIOps")
    io_maximum_bandwidth: int = shown(0, "IOMaximumBandwidth")
    mounts: list[Mount] | None = None
    masked_paths: list[str] | None = shown(None)
    readonly_paths: list[str] | None = shown(None)
    init: bool | None = None


class NetworkingConfig(Body):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class ContainerCreate(Config):
    """POST /containers/create.  ``host_config`` None: not given."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None

    def config(self) -> Config:
        """The part that becomes the container's ``Config``; its lists and maps are shared with this body."""
        return Config(**{name: getattr(self, name) for name in Config.__struct_fields__})


class ContainerCreated(Body):
    id: str = shown("")
    warnings: list[str] = shown([])


class ContainerUpdate(HostConfig):
    """POST /containers/{id}/update: of a HostConfig, only resources and the restart policy count; 0, "" and null leave a value alone."""


class ContainerUpdated(Body):
    warnings: list[str] | None = shown(None)


class HealthResult(Body):
    start: str = shown(ZERO_TIME)
    end: str = shown(ZERO_TIME)
    exit_code: int = shown(0)
    output: str = shown("")


class Health(Body):
    """``status``: starting, healthy or unhealthy; ``log``: the last five results."""

    status: str = shown("")
    failing_streak: int = shown(0)
    log: list[HealthResult] | None = shown(None)


class State(Body):
    """``status``: created, running, paused, restarting, removing, exited or dead."""

    status: str = shown("created")
    running: bool = shown(False)
    paused: bool = shown(False)
    restarting: bool = shown(False)
    oom_killed: bool = shown(False, "OOMKilled")
    dead: bool = shown(False)
    pid: int = shown(0)
    exit_code: int = shown(0)
    error: str = shown("")
    started_at: str = shown(ZERO_TIME)
    finished_at: str = shown(ZERO_TIME)
    health: Health | None = None


class GraphDriver(Body):
    data: dict[str, str] | None = shown(None)
    name: str = shown("")


class MountPoint(Body):
    """A mount as it is, where ``Mount`` is one as it was asked for."""

    type: str = ""
    name: str = ""
    source: str = shown("")
    destination: str = shown("")
    driver: str = ""
    mode: str = shown("")
    rw: bool = shown(False, "RW")
    propagation: str = shown("")


class NetworkSettings(Body):
    """``ports``: "80/tcp" -> where it is published, null for one only exposed.  The flat fields describe the default bridge."""

    bridge: str = shown("")
    sandbox_id: str = shown("", "SandboxID")
    sandbox_key: str = shown("")
    ports: dict[str, list[PortBinding] | None] | None = shown({})
    hairpin_mode: bool = shown(False)
    link_local_ipv6_address: str = shown("", "LinkLocalIPv6Address")
    link_local_ipv6_prefix_len: int = shown(0, "LinkLocalIPv6PrefixLen")
    secondary_ip_addresses: list[Nothing] | None = shown(None, "SecondaryIPAddresses")
    secondary_ipv6_addresses: list[Nothing] | None = shown(None, "SecondaryIPv6Addresses")
    endpoint_id: str = shown("", "EndpointID")
    gateway: str = shown("")
    global_ipv6_address: str = shown("", "GlobalIPv6Address")
    global_ipv6_prefix_len: int = shown(0, "GlobalIPv6PrefixLen")
    ip_address: str = shown("", "IPAddress")
    ip_prefix_len: int = shown(0, "IPPrefixLen")
    ipv6_gateway: str = shown("", "IPv6Gateway")
    mac_address: str = shown("")
    networks: dict[str, EndpointSettings] = shown({})


class ContainerInspect(Body):
    """GET /containers/{id}/json.  The sizes appear only when asked for."""

    id: str = shown("")
    created: str = shown("")
    path: str = shown("")
    args: list[str] = shown([])
    state: State = shown(State())
    image: str = shown("")
    resolv_conf_path: str = shown("")
    hostname_path: str = shown("")
    hosts_path: str = shown("")
    log_path: str = shown("")
    name: str = shown("")
    restart_count: int = shown(0)
    driver: str = shown("")
    platform: str = shown("linux")
    mount_label: str = shown("")
    process_label: str = shown("")
    app_armor_profile: str = shown("")
    exec_ids: list[str] | None = shown(None, "ExecIDs")
    host_config: HostConfig = shown(HostConfig())
    graph_driver: GraphDriver = shown(GraphDriver())
    size_rw: int | None = None
    size_root_fs: int | None = None
    mounts: list[MountPoint] = shown([])
    config: Config = shown(Config())
    network_settings: NetworkSettings = shown(NetworkSettings())


class Port(Body):
    ip: str = field(default="", name="IP")
    private_port: int = shown(0)
    public_port: int = 0
    type: str = shown("")


class SummaryHostConfig(Body):
    network_mode: str = ""
    annotations: dict[str, str] | None = None


class SummaryNetworks(Body):
    networks: dict[str, EndpointSettings] = shown({})


class ContainerSummary(Body):
    """One of GET /containers/json.  ``command`` is one shell-quoted line."""

    id: str = shown("")
    names: list[str] = shown([])
    image: str = shown("")
    image_id: str = shown("", "ImageID")
    command: str = shown("")
    created: int = shown(0)
    ports: list[Port] = shown([])
    size_rw: int = 0
    size_root_fs: int = 0
    labels: dict[str, str] = shown({})
    state: str = shown("")
    status: str = shown("")
    host_config: SummaryHostConfig = shown(SummaryHostConfig())
    network_settings: SummaryNetworks = shown(SummaryNetworks())
    mounts: list[MountPoint] = shown([])


class WaitError(Body):
    message: str = shown("")


class ContainerWaited(Body):
    status_code: int = shown(0)
    error: WaitError | None = None


class ContainerTop(Body):
    processes: list[list[str]] = shown([])
    titles: list[str] = shown([])


class FilesystemChange(Body):
    """``kind``: 0 changed, 1 added, 2 deleted."""

    path: str = shown("")
    kind: int = shown(0)


class ContainersPruned(Body):
    containers_deleted: list[str] | None = shown(None)
    space_reclaimed: int = shown(0)


class PathStat(Body, rename={"link_target": "linkTarget"}):
    """X-Docker-Container-Path-Stat.  ``mode`` has Go's FileMode bits."""

    name: str = shown("")
    size: int = shown(0)
    mode: int = shown(0)
    mtime: str = shown("")
    link_target: str = shown("")
