"""What the daemon says of itself and of its disk: info, version, disk use, events, login (``api/ports.System``)."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from wherry.containers.lifecycle import Status
from wherry.engine.rooms import Rooms
from wherry.runtime import defaults
from wherry.spec.docker.event import Event
from wherry.spec.docker.request import Filters
from wherry.spec.docker.system import Component, Info, PlatformName, RegistryConfig, RegistryIndex, Runtime, Version
from wherry.spec.proxies import masked
from wherry.spec.settings import RUNTIME, Settings

VERSION = "0.1.0"
API_VERSION, MIN_API_VERSION = "1.51", "1.24"
EVENT_KEYS = frozenset("config container daemon event image label network node plugin scope secret service type volume action".split())
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def architecture() -> str:
    """This machine in Go's words."""
    return _GO_ARCHITECTURES.get(platform.machine(), platform.machine())


def operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def registry_config(settings: Settings) -> RegistryConfig:
    """Whom the daemon trusts without TLS, and whom it asks instead."""
    networks = [entry for entry in settings.insecure_registries if "/" in entry]
    hosts = {entry: RegistryIndex(name=entry, secure=False) for entry in settings.insecure_registries if "/" not in entry}
    mirrors = [text for text in settings.registry_mirrors if "=" not in text]
    return RegistryConfig(
        index_configs={"docker.io": RegistryIndex(name="docker.io", official=True, mirrors=mirrors), **hosts},
        insecure_registry_cidrs=["::1/128", "127.0.0.0/8", *networks],
        mirrors=mirrors or None,
    )


class SystemOperations:
    rooms: Rooms
    daemon_id: str
    sandbox_warnings: list[str]

    async def version(self) -> Version:
        kernel = os.uname().release
        details = {
            "ApiVersion": API_VERSION,
            "Arch": architecture(),
            "KernelVersion": kernel,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
            "PythonVersion": platform.python_version(),
        }
        return Version(
            platform=PlatformName(name="Wherry"),
            components=[Component(name="Engine", version=VERSION, details=details)],
            version=VERSION,
            api_version=API_VERSION,
            min_api_version=MIN_API_VERSION,
            go_version=f"python{platform.python_version()}",
            arch=architecture(),
            kernel_version=kernel,
        )

    async def info(self) -> Info:
        rooms = self.rooms
        containers = rooms.containers.all()
        running = sum(1 for one in containers if one.status in (Status.RUNNING, Status.RESTARTING))
        paused = sum(1 for one in containers if one.status is Status.PAUSED)
        cgroups = rooms.cgroups
        has = {name: cgroups.v2 is not None or name in cgroups.v1 for name in ("memory", "cpu", "cpuset", "pids")}
        return Info(
            id=self.daemon_id,
            containers=len(containers),
            containers_running=running,
            containers_paused=paused,
            containers_stopped=len(containers) - running - paused,
            images=len(rooms.images.list()),
            driver=rooms.snapshotter.name,
            driver_status=[("Data Root", rooms.settings.data_root)],
            memory_limit=has["memory"],
            swap_limit=has["memory"],
            cpu_cfs_period=has["cpu"],
            cpu_cfs_quota=has["cpu"],
            cpu_shares=has["cpu"],
            cpu_set=has["cpuset"],
            pids_limit=has["pids"],
            ipv4_forwarding=_reads_one("/proc/sys/net/ipv4/ip_forward"),
            debug=rooms.settings.debug,
            descriptors=len(os.listdir("/proc/self/fd")),
            oom_kill_disable=cgroups.v2 is None,
            system_time=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            cgroup_version="2" if cgroups.v2 else "1",
            kernel_version=os.uname().release,
            operating_system=operating_system(),
            architecture=platform.machine(),
            http_proxy=masked(rooms.settings.proxies.http),
            https_proxy=masked(rooms.settings.proxies.https),
            no_proxy=rooms.settings.proxies.no,
            registry_config=registry_config(rooms.settings),
            cpus=len(os.sched_getaffinity(0)),
            mem_total=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            docker_root_dir=rooms.settings.data_root,
            name=os.uname().nodename,
            server_version=VERSION,
            runtimes=runtimes(rooms.settings),
            default_runtime=rooms.settings.default_runtime,
            live_restore_enabled=True,
            warnings=[*self.sandbox_warnings, *rooms.networks.warnings()] or None,
            security_options=security_options(rooms.settings),
        )

    async def events(self, *, since_ns: int, until_ns: int, filters: Filters) -> AsyncIterator[Event]:
        return self.rooms.events.stream(since_ns=since_ns or None, until_ns=until_ns or None, filters=filters)


def runtimes(settings: Settings) -> dict[str, Runtime]:
    """Ours, which the interpreter is, and the others."""
    others = {name: Runtime(path=words[0], args=list(words[1:]) or None) for name, words in settings.runtimes.items()}
    return {RUNTIME: Runtime(path=sys.executable), **others}


def security_options(settings: Settings) -> list[str]:
    """As Docker lists them."""
    found = [f"name=seccomp,profile={settings.seccomp_profile}"]
    if os.path.exists("/proc/self/ns/cgroup"):
        found.append("name=cgroupns")
    found.append(f"name=pids-limit,default={defaults.PIDS_LIMIT}")
    if settings.no_new_privileges:
        found.append("name=no-new-privileges")
    if settings.security_profile != "default":
        found.append(f"name=profile,profile={settings.security_profile}")
    return found


def _reads_one(path: str) -> bool:
    try:
        with open(path) as file:
            return file.read().strip() == "1"
    except OSError:
        return False
