"""From an Engine API create body and an image to a container record: defaults, merging, and every check that needs no kernel.

Source: Engine API 1.51 ContainerCreate; messages as Docker 28 gives them.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
import signal
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from wherry.containers import log_options, restart, security
from wherry.containers.health import SHORTEST_NS
from wherry.errors import InvalidRequest, NotSupported
from wherry.spec.docker.container import Config, ContainerCreate, Healthcheck, HostConfig, LogConfig
from wherry.spec.docker.network import EndpointSettings
from wherry.spec.settings import RUNTIME

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
DEFAULT_SHM_BYTES = 64 << 20
SMALLEST_MEMORY = 6 << 20
PORTS = re.compile("[0-9]{1,5}(-[0-9]{1,5})?(/[a-z]+)?")
NUMBER = re.compile("[+-]?0*[1-9][0-9]{0,8}")
DIGITS = re.compile("[0-9]{1,9}")  # str.isdigit also takes digits of other scripts, which int() may refuse


def checked_name(name: str) -> str:
    """The name without its slash.  Raises InvalidRequest."""
    if not NAME.fullmatch(name) or len(name) > 255:
        raise InvalidRequest(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def merge_config(asked: ContainerCreate, image: Config | None, *, hostname: str) -> Config:
    """The container's Config: what was asked for, completed from the image.  Raises InvalidRequest where nothing is left to run."""
    config = asked.config()
    base = image or Config()
    if not config.user:
        config.user = base.user
    if not config.working_dir:
        config.working_dir = base.working_dir
    if config.working_dir.startswith("/"):
        config.working_dir = posixpath.normpath("/" + config.working_dir.lstrip("/"))
    config.env = merged_env(config.env or [], base.env or []) or base.env
    labels = {**(base.labels or {}), **(config.labels or {})}
    config.labels = {name: labels[name] for name in sorted(labels)}  # each event has them in order
    config.exposed_ports = {**(base.exposed_ports or {}), **(config.exposed_ports or {})} or None
    config.volumes = {**(base.volumes or {}), **(config.volumes or {})} or None
    if config.entrypoint is None or not config.entrypoint:
        if not config.cmd:
            config.cmd = base.cmd
        if config.entrypoint is None or base.entrypoint:
            config.entrypoint = base.entrypoint
    if config.entrypoint == [""]:
        config.entrypoint = None
    config.cmd = config.cmd or None
    config.entrypoint = config.entrypoint or None
    if not config.entrypoint and not config.cmd:
        raise InvalidRequest("no command specified")
    config.healthcheck = merged_healthcheck(config.healthcheck, base.healthcheck)
    if not config.stop_signal:
        config.stop_signal = base.stop_signal
    if config.shell is None:
        config.shell = base.shell
    if not config.hostname:
        config.hostname = hostname
    return config


def merged_env(asked: Sequence[str], image: Sequence[str]) -> list[str]:
    """``asked`` first, then what only the image sets.  Raises InvalidRequest: `invalid environment variable: =x`."""
    for item in asked:
        if not item or item.startswith("="):
            raise InvalidRequest(f"invalid environment variable: {item}")
        if "\0" in item:
            raise InvalidRequest("invalid environment variable: it contains a null byte")
    names = {item.partition("=")[0] for item in asked}
    return [*asked, *(item for item in image if item.partition("=")[0] not in names)]


def merged_healthcheck(asked: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if asked is None or image is None:
        return asked or image
    return Healthcheck(
        test=asked.test or image.test,
        interval=asked.interval or image.interval,
        timeout=asked.timeout or image.timeout,
        start_period=asked.start_period or image.start_period,
        start_interval=asked.start_interval or image.start_interval,
        retries=asked.retries or image.retries,
    )


def complete_host_config(
    asked: HostConfig | None,
    *,
    default_log_options: dict[str, str],
    security_profile: str = "default",
    no_new_privileges: bool = False,
    default_runtime: str = RUNTIME,
    v2: bool = False,
) -> HostConfig:
    """The HostConfig with Docker's and the daemon's defaults filled in, as `inspect` shows it.  Raises InvalidRequest.

    ``v2``: control groups of that version have no OOM killer to switch off.
    """
    host = asked or HostConfig()
    if host.security_opt is None and (host.privileged or "host" in (host.pid_mode, host.ipc_mode)):
        host.security_opt = ["label=disable"]
    host.security_opt = security.completed(host.security_opt, profile=security_profile, no_new_privileges=no_new_privileges)
    host.network_mode = "bridge" if host.network_mode in ("", "default") else host.network_mode
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or "private"
    host.restart_policy.name = host.restart_policy.name or "no"
    host.shm_size = host.shm_size or DEFAULT_SHM_BYTES
    host.runtime = host.runtime or default_runtime
    if not host.log_config.type:
        host.log_config = LogConfig(type="json-file", config=host.log_config.config or {})
    if host.log_config.type == "json-file":
        host.log_config.config = {**default_log_options, **(host.log_config.config or {})}
    if host.memory and not host.memory_swap:
        host.memory_swap = 2 * host.memory
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = 0 if host.pids_limit else None  # no limit, ours: the Docker CLI sends 0 for what was not asked
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if host.oom_kill_disable is None and not v2:
        host.oom_kill_disable = False
    return host


def discard_what_v2_lacks(host: HostConfig) -> list[str]:
    """Take out what control groups v2 have no file for, as Docker does; its warnings.  Source: moby's daemon/daemon_unix.go."""
    found = []
    if host.memory_swappiness not in (None, -1):
        found.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
        )
    if host.oom_kill_disable:
        found.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
    host.memory_swappiness = host.oom_kill_disable = None
    return found


def check(config: Config, host: HostConfig, *, cpus: int, runtimes: Collection[str] = ()) -> None:
    """Everything about a request that can be refused before anything is made.  Raises InvalidRequest or NotSupported in Docker's words."""
    policy = restart.checked(host.restart_policy.name, host.restart_policy.maximum_retry_count)
    if host.auto_remove and policy.name != "no":
        raise InvalidRequest("can't create 'AutoRemove' container with restart policy")
    _check_config(config)
    check_resources(host, cpus=cpus)
    log_options.check(host.log_config)
    _check_ports(host)
    for line in host.extra_hosts or ():
        _check_extra_host(line)
    _check_namespaces(host)
    _check_unsupported(host)
    check_runtime(host, runtimes)
    for device in host.devices or ():
        if set(device.cgroup_permissions) - set("rwm"):
            raise InvalidRequest(f"invalid device mode: {device.cgroup_permissions}")
    for limit in host.ulimits or ():
        check_ulimit(limit.name, limit.soft, limit.hard)
    if "" in (host.annotations or {}):
        raise InvalidRequest("invalid Annotations: the empty string is not permitted as an annotation key")
    security.normalised(host.cap_add, "CapAdd")
    security.normalised(host.cap_drop, "CapDrop")
    security.check_sysctls(host.sysctls, host_network=host.network_mode == "host", host_ipc=host.ipc_mode == "host")
    security.refuse_unavailable(
        security.parse_security_options(host.security_opt),
        apparmor=_has_apparmor(),
        selinux=os.path.exists("/sys/fs/selinux/enforce"),
        unified_cgroups=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
        privileged=host.privileged,
    )


def _has_apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


def _check_config(config: Config) -> None:
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidRequest(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    for value in (config.hostname, config.domainname, config.user):
        if any(character in value for character in "\n\r\0"):
            raise InvalidRequest(f"invalid value {value!r}: line breaks are not allowed")
    if len(config.hostname) > 64:
        raise InvalidRequest(f"invalid hostname format: {config.hostname}")
    if config.stop_signal and not NUMBER.fullmatch(config.stop_signal):
        signal_number(config.stop_signal)  # that the kernel has a number is not asked for here, by Docker neither
    if config.healthcheck:
        for name, length_ns in (
            ("Interval", config.healthcheck.interval),
            ("Timeout", config.healthcheck.timeout),
            ("StartPeriod", config.healthcheck.start_period),
            ("StartInterval", config.healthcheck.start_interval),
        ):
            if length_ns and length_ns < SHORTEST_NS:
                raise InvalidRequest(f"{name} in Healthcheck cannot be less than 1ms")
        if config.healthcheck.retries < 0:
            raise InvalidRequest("Retries in Healthcheck cannot be negative")


def _check_extra_host(line: str) -> None:
    name, separator, address = line.partition(":")
    if not name or not separator:
        raise InvalidRequest(f'bad format for add-host: "{line}"')
    try:
        ipaddress.ip_address(address if address != "host-gateway" else "0.0.0.0")  # which address that is, is known at the start
    except ValueError:
        raise InvalidRequest(f'invalid IP address in add-host: "{address}"') from None


def _check_ports(host: HostConfig) -> None:
    for port, places in (host.port_bindings or {}).items():
        wrong = [place.host_port for place in places or () if place.host_port and not PORTS.fullmatch(place.host_port)]
        if wrong or not PORTS.fullmatch(port):
            raise InvalidRequest(f'invalid port specification: "{wrong[0] if wrong else port.partition("/")[0]}"')


def check_resources(host: HostConfig, *, cpus: int, updating: bool = False) -> None:
    """The limits of `run` and, where one may go without another that is set already, of `update`."""
    if host.cpu_realtime_period or host.cpu_realtime_runtime:
        raise NotSupported("--cpu-rt-period and --cpu-rt-runtime are not supported: this kernel's scheduler has no real-time groups")
    if host.memory and host.memory < SMALLEST_MEMORY:
        raise InvalidRequest("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidRequest("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0 and not updating:
        raise InvalidRequest("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_reservation and host.memory_reservation < SMALLEST_MEMORY:
        raise InvalidRequest("Minimum memory reservation allowed is 6MB")
    if host.memory_reservation and host.memory and host.memory_reservation > host.memory:
        raise InvalidRequest("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidRequest(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    for value, words in ((host.cpu_period, "CPU Period"), (host.cpu_quota, "CPU Quota")):
        if host.nano_cpus and value:
            raise InvalidRequest(f"Conflicting options: Nano CPUs and {words} cannot both be set")
    if host.nano_cpus < 0 or host.nano_cpus > cpus * 1_000_000_000:
        raise InvalidRequest(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidRequest("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if host.cpu_shares < 0:
        raise InvalidRequest(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if 0 < host.cpu_quota < 1000:
        raise InvalidRequest("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpuset_cpus:
        _check_available(host.cpuset_cpus, "cpuset cpus", "CPUs", _online("/sys/devices/system/cpu/online", f"0-{cpus - 1}"))
    if host.cpuset_mems:
        _check_available(host.cpuset_mems, "cpuset mems", "memory nodes", _online("/sys/devices/system/node/online", "0"))
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidRequest("Range of blkio weight is from 10 to 1000")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidRequest(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidRequest("SHM size can not be less than 0")


def _check_available(asked: str, what: str, kind: str, available: str) -> None:
    if parse_cpuset(asked, what) - parse_cpuset(available, what):
        raise InvalidRequest(f"Requested {kind} are not available - requested {asked}, available: {available}")


def _online(path: str, otherwise: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip() or otherwise
    except OSError:
        return otherwise


def parse_cpuset(text: str, what: str) -> set[int]:
    """`0-2,4` as a set.  Raises InvalidRequest."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not DIGITS.fullmatch(first) or (dash and not DIGITS.fullmatch(last)) or len(part) > 12 or (dash and int(last) < int(first)):
            raise InvalidRequest(f"Invalid value {text} for {what}: invalid format: {text}")
        found |= set(range(int(first), min(int(last if dash else first), 8192) + 1))
    return found


def is_user_defined(network_mode: str) -> bool:
    """Whether a network of the user's own is meant, which has names."""
    return network_mode not in ("", "default", "bridge", "host", "none") and not network_mode.startswith("container:")


def check_joined_network(body: ContainerCreate) -> None:
    """Refuse what a container that joins another's network cannot have of its own.  Raises InvalidRequest."""
    host = body.host_config
    if host is None or not host.network_mode.startswith("container:"):
        return
    for given, what in (
        (body.hostname, "hostname and the network mode"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (body.exposed_ports and not (host.port_bindings or host.publish_all_ports), "port exposing and the container type network mode"),
    ):
        if given:
            raise InvalidRequest(f"conflicting options: {what}")


def _check_namespaces(host: HostConfig) -> None:
    if host.network_mode == "container:":
        raise InvalidRequest("invalid network mode: invalid container format container:<name|id>")
    if host.network_mode.startswith("container:") and (host.port_bindings or host.publish_all_ports):
        raise InvalidRequest("conflicting options: port publishing and the container type network mode")
    if host.network_mode.startswith("container:") and host.links:
        raise InvalidRequest(
            "conflicting options: container type network can't be used with links. This would result in undefined behavior"
        )
    if host.network_mode.startswith("container:"):
        for wanted, option in ((host.extra_hosts, "custom host-to-IP mapping"), (host.dns, "dns")):
            if wanted:
                raise InvalidRequest(f"conflicting options: {option} and the network mode")
    if host.network_mode == "host" and host.links:
        raise InvalidRequest("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
    for value, name, words in (
        (host.pid_mode, "PID", ("", "private", "host")),
        (host.ipc_mode, "IPC", ("", "none", "private", "shareable", "host")),
        (host.uts_mode, "UTS", ("", "private", "host")),
        (host.cgroupns_mode, "cgroup namespace", ("", "private", "host")),
    ):
        if value not in words and not (value.startswith("container:") and name in ("PID", "IPC")):
            raise InvalidRequest(f"invalid {name} mode: {value}")
    if host.userns_mode not in ("", "host"):
        raise InvalidRequest(f"invalid USER mode: {host.userns_mode}")


def _check_unsupported(host: HostConfig) -> None:
    """What Wherry does not do is said by name, never ignored."""
    for request in host.device_requests or ():
        if request.driver == "cdi":
            raise InvalidRequest(f"CDI device injection failed: unresolvable CDI devices {', '.join(request.device_ids or ())}")
        raise InvalidRequest(f'could not select device driver "{request.driver}" with capabilities: {_go_lists(request.capabilities)}')
    if host.storage_opt:
        raise NotSupported("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    if host.isolation not in ("", "default"):
        raise InvalidRequest(f"invalid isolation ({host.isolation}): linux only supports 'default'")
    if host.cgroup_parent and ".." in host.cgroup_parent.split("/"):
        raise InvalidRequest(f"invalid cgroup parent: {host.cgroup_parent}")


def check_runtime(host: HostConfig, runtimes: Collection[str]) -> None:
    """``runtimes``: the names of others than ours.  Raises InvalidRequest."""
    if host.runtime != RUNTIME and host.runtime not in runtimes:
        raise InvalidRequest(f"unknown or invalid runtime name: {host.runtime}")


def _go_lists(value: list[list[str]] | None) -> str:
    return "[" + " ".join("[" + " ".join(inner) + "]" for inner in value or []) + "]"


def check_ulimit(name: str, soft: int, hard: int) -> None:
    if "RLIMIT_" + name.upper() not in RLIMITS:
        raise InvalidRequest(f"invalid ulimit type: {name}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidRequest(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")


RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
)


def signal_number(text: str) -> int:
    """`SIGTERM`, `term`, `15`, `RTMIN+1` as a number.  Raises InvalidRequest: `invalid signal: BOGUS`."""
    word = text.upper().removeprefix("SIG")
    if re.fullmatch("[+-]?[0-9]{1,9}", word):
        number = int(word)
        if 0 < number <= 64:
            return number
        if number:
            raise InvalidRequest(f"the linux daemon does not support signal {number}")
    elif (match := re.fullmatch(r"RTM(IN|AX)(?:([+-])([0-9]{1,2}))?", word)) is not None:
        number = (34 if match[1] == "IN" else 64) + int((match[2] or "+") + (match[3] or "0"))
        if 34 <= number <= 64:
            return number
    elif "SIG" + word in signal.Signals.__members__:
        return int(signal.Signals["SIG" + word])
    raise InvalidRequest(f"invalid signal: {text}")


def stop_signal_number(config: Config) -> int:
    """What asks the program to end; SIGTERM also where the kernel has no signal of that number."""
    try:
        return signal_number(config.stop_signal or "SIGTERM")
    except InvalidRequest:
        return int(signal.SIGTERM)


def endpoints_asked(body: ContainerCreate, host: HostConfig) -> dict[str, EndpointSettings]:
    """The networks a create names: NetworkingConfig and NetworkMode together."""
    asked = {
        name: settings or EndpointSettings()
        for name, settings in ((body.networking_config and body.networking_config.endpoints_config) or {}).items()
    }
    if host.network_mode in ("host", "none") or host.network_mode.startswith("container:"):
        extra = [name for name in asked if name != host.network_mode]
        if extra and not host.network_mode.startswith("container:"):
            raise InvalidRequest("cannot attach both user-defined and non-user-defined network-modes")
        if any(settings.ipam_config and settings.ipam_config.ipv4_address for settings in asked.values()):
            raise InvalidRequest(
                f"invalid config for network {host.network_mode}: invalid endpoint settings:\n"
                "* user specified IP address is supported on user defined networks only\n"
                "* user specified IP address is supported only when connecting to networks with user configured subnets"
            )
        if extra:
            raise InvalidRequest("conflicting options: cannot attach to a network in the container network mode")
        return (
            {host.network_mode: asked.get(host.network_mode, EndpointSettings())} if not host.network_mode.startswith("container:") else {}
        )
    first = asked.pop("default", None) if host.network_mode == "bridge" and "bridge" not in asked else asked.get(host.network_mode)
    return {host.network_mode: first or EndpointSettings(), **{name: value for name, value in asked.items() if name != host.network_mode}}


def settle_mac_address(config: Config, host: HostConfig, endpoints: dict[str, EndpointSettings]) -> None:
    """The old field for the whole container means the first network's endpoint, whose address it shows.  Raises InvalidRequest."""
    main = endpoints.get(host.network_mode)
    if main is None or host.network_mode in ("host", "none"):
        return
    if config.mac_address and main.mac_address and config.mac_address != main.mac_address:
        raise InvalidRequest(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty"
        )
    config.mac_address = main.mac_address = main.mac_address or config.mac_address


def command_of(config: Config) -> tuple[str, list[str]]:
    """What inspect calls Path and Args."""
    words = [*(config.entrypoint or []), *(config.cmd or [])]
    return words[0], words[1:]


def from_image(config: Any) -> Config:
    """An image's ``config`` object (``spec.image.Config``) as the API's Config."""
    return msgspec.convert(msgspec.to_builtins(config), Config)
