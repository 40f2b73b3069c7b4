"""Daemon bodies: info, version, disk use, login.  Source: Engine API 1.51."""

from __future__ import annotations

from msgspec import field

from wherry.spec.docker.body import Body, shown
from wherry.spec.docker.build import BuildCacheRecord
from wherry.spec.docker.container import ContainerSummary
from wherry.spec.docker.image import ImageSummary
from wherry.spec.docker.volume import Volume


class PlatformName(Body):
    name: str = shown("")


class Component(Body):
    name: str = shown("")
    version: str = shown("")
    details: dict[str, str] | None = None


class Version(Body):
    """GET /version."""

    platform: PlatformName = shown(PlatformName())
    components: list[Component] = shown([])
    version: str = shown("")
    api_version: str = shown("")
    min_api_version: str = shown("", "MinAPIVersion")
    git_commit: str = shown("")
    go_version: str = shown("")
    os: str = shown("linux")
    arch: str = shown("")
    kernel_version: str = shown("")
    experimental: bool = False
    build_time: str = ""


class Plugins(Body):
    volume: list[str] = shown(["local"])
    network: list[str] = shown(["bridge", "host", "null"])
    authorization: list[str] | None = shown(None)
    log: list[str] = shown(["json-file", "local", "none"])


class RegistryIndex(Body):
    mirrors: list[str] = shown([])
    name: str = shown("")
    official: bool = shown(False)
    secure: bool = shown(True)


class RegistryConfig(Body):
    index_configs: dict[str, RegistryIndex] = shown({})
    insecure_registry_cidrs: list[str] = shown([], "InsecureRegistryCIDRs")
    mirrors: list[str] | None = shown(None)


class Runtime(Body, rename="lower"):
    path: str = ""
    args: list[str] | None = field(default=None, name="runtimeArgs")
    status: dict[str, str] | None = None


class Swarm(Body):
    node_id: str = shown("", "NodeID")
    node_addr: str = shown("")
    local_node_state: str = shown("inactive")
    control_available: bool = shown(False)
    error: str = shown("")
    remote_managers: list[dict[str, str]] | None = shown(None)


class Commit(Body):
    id: str = shown("", "ID")


class Firewall(Body):
    driver: str = shown("")
    info: list[tuple[str, str]] | None = None


class Info(Body):
    """GET /info."""

    id: str = shown("", "ID")
    containers: int = shown(0)
    containers_running: int = shown(0)
    containers_paused: int = shown(0)
    containers_stopped: int = shown(0)
    images: int = shown(0)
    driver: str = shown("")
    driver_status: list[tuple[str, str]] = shown([])
    plugins: Plugins = shown(Plugins())
    memory_limit: bool = shown(False)
    swap_limit: bool = shown(False)
    kernel_memory_tcp: bool = field(default=False, name="KernelMemoryTCP")
    cpu_cfs_period: bool = shown(False)
    cpu_cfs_quota: bool = shown(False)
    cpu_shares: bool = shown(False, "CPUShares")
    cpu_set: bool = shown(False, "CPUSet")
    pids_limit: bool = shown(False)
    ipv4_forwarding: bool = shown(False, "IPv4Forwarding")
    debug: bool = shown(False)
    descriptors: int = shown(0, "NFd")
    oom_kill_disable: bool = shown(False)
    goroutines: int = shown(0, "NGoroutines")
    system_time: str = shown("")
    logging_driver: str = shown("json-file")
    cgroup_driver: str = shown("cgroupfs")
    cgroup_version: str = shown("")
    events_listeners: int = shown(0, "NEventsListener")
    kernel_version: str = shown("")
    operating_system: str = shown("")
    os_version: str = shown("", "OSVersion")
    os_type: str = shown("linux", "OSType")
    architecture: str = shown("")
    index_server_address: str = shown("https://index.docker.io/v1/")
    registry_config: RegistryConfig = shown(RegistryConfig())
    cpus: int = shown(0, "NCPU")
    mem_total: int = shown(0)
    generic_resources: list[dict[str, object]] | None = shown(None)
    docker_root_dir: str = shown("")
    http_proxy: str = shown("")
    https_proxy: str = shown("")
    no_proxy: str = shown("")
    name: str = shown("")
    labels: list[str] = shown([])
    experimental_build: bool = shown(False)
    server_version: str = shown("")
    runtimes: dict[str, Runtime] = shown({})
    default_runtime: str = shown("")
    swarm: Swarm = shown(Swarm())
    live_restore_enabled: bool = shown(False)
    isolation: str = shown("")
    init_binary: str = shown("")
    containerd_commit: Commit = shown(Commit())
    runc_commit: Commit = shown(Commit())
    init_commit: Commit = shown(Commit())
    security_options: list[str] = shown([])
    firewall_backend: Firewall | None = None
    cdi_spec_dirs: list[str] = shown([], "CDISpecDirs")
    warnings: list[str] | None = shown(None)


class DiskUsage(Body):
    """GET /system/df.  None: that kind was not asked for."""

    layers_size: int = shown(0)
    images: list[ImageSummary] | None = shown(None)
    containers: list[ContainerSummary] | None = shown(None)
    volumes: list[Volume] | None = shown(None)
    build_cache: list[BuildCacheRecord] | None = shown(None)
    builder_size: int = 0  # only before API 1.42


class AuthConfig(Body, rename="lower"):
    """POST /auth and the X-Registry-Auth header."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class Authenticated(Body):
    identity_token: str = ""
    status: str = shown("")
