"""A container record as an OCI runtime-spec 1.2 ``config.json``.  Source: runtime-spec config-linux.md; the bundle dockerd makes."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from wherry.containers import security
from wherry.containers.record import ContainerRecord, MountRecord
from wherry.errors import InvalidRequest
from wherry.runtime import defaults
from wherry.spec.docker.container import Config, DeviceMapping, HostConfig

UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the engine knows of a start beyond the record.

    ``files``: path in the container -> file on the host (hosts, hostname, resolv.conf). ``joined``: namespace type -> path of one to join,
    "" for the host's own; ``shm``: the /dev/shm of a joined ipc namespace. ``environment``: link variables.
    ``cgroups_path``: below each hierarchy's root. ``parts``: where those of
    volumes show, by destination. ``seccomp``: the profile of who names none; True for the builtin one, False for none.
    """

    cgroups_path: str
    files: Mapping[str, str] = field(default_factory=dict)
    joined: Mapping[str, str] = field(default_factory=dict)
    shm: str = "/dev/shm"
    environment: Sequence[str] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    available_capabilities: Sequence[str] = security.CAPABILITIES
    seccomp: Mapping[str, Any] | bool = True


def environment(config: Config, extra: Sequence[str], *, terminal: bool) -> list[str]:
    """PATH, HOSTNAME, TERM, link variables, then the container's own, which win. HOME is added where the user is known."""
    merged: dict[str, str] = {}
    head = [defaults.PATH, f"HOSTNAME={config.hostname}", *(["TERM=xterm"] if terminal else []), *extra]
    for item in [*head, *(config.env or [])]:
        name, equals, _ = item.partition("=")
        if equals:
            merged[name] = item
        else:
            merged.pop(name, None)  # `-e NAME` without a value takes an image's variable away
    return list(merged.values())


def capabilities_of(host: HostConfig, available: Sequence[str]) -> list[str]:
    asked = tuple(host.security_opt or ()), tuple(host.cap_add or ()), tuple(host.cap_drop or ())
    return list(_capabilities(*asked, privileged=host.privileged, available=tuple(available)))


@lru_cache(maxsize=64)  # a start asks for them several times
def _capabilities(
    options: tuple[str, ...], add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool, available: tuple[str, ...]
) -> Sequence[str]:
    default = security.parse_security_options(options).narrowed(defaults.CAPABILITIES)
    return security.effective(default, add, drop, privileged=privileged, available=available)


def process(record: ContainerRecord, around: Surroundings) -> dict[str, Any]:
    """The OCI ``process`` object; the user is resolved inside, by ``Launch.user``."""
    config, host = record.config, record.host_config
    options = security.parse_security_options(host.security_opt)
    profile = {} if options.apparmor in ("", "unconfined") else {"apparmorProfile": options.apparmor}
    return {
        **profile,
        "terminal": config.tty,
        "user": {"uid": 0, "gid": 0},
        "args": [record.path, *record.args],
        "env": environment(config, around.environment, terminal=config.tty),
        "cwd": config.working_dir or "/",
        "capabilities": capability_sets(capabilities_of(host, around.available_capabilities)),
        "noNewPrivileges": options.no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
        "rlimits": [
            {"type": f"RLIMIT_{limit.name.upper()}", "soft": _unsigned(limit.soft), "hard": _unsigned(limit.hard)}
            for limit in host.ulimits or ()
        ],
    }


def capability_sets(names: list[str]) -> dict[str, list[str]]:
    """Inheritable and ambient stay empty, always (CVE-2022-24769)."""
    return {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []}


def _unsigned(limit: int) -> int:
    return limit if limit >= 0 else (1 << 64) - 1


def seccomp_of(
    host: HostConfig, capabilities: Sequence[str], architecture: str = "", *, default: Mapping[str, Any] | bool = True
) -> dict[str, Any] | None:
    """An OCI ``linux.seccomp`` object: the profile given, else the daemon's ``default``, for these capabilities; or none.

    ``architecture``: the image's. What the kernel reads through a pointer no filter sees, so socketcall, by which 32-bit programs could
    pass the rules for socket(), is an unknown call except to images of 32-bit programs and to who asks for it.
    """
    options = security.parse_security_options(host.security_opt)
    socketcall = options.socketcall or architecture == "386"
    asked = default if options.seccomp is None else options.seccomp
    if asked is False or (host.privileged and options.seccomp in (None, True)):
        return None
    if not isinstance(asked, bool):
        try:
            return defaults.decide_socketcall(defaults.resolve_seccomp(asked, capabilities), allowed=socketcall)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(f"decoding seccomp profile failed: {error}") from error
    return _default_seccomp(tuple(capabilities), socketcall)


@cache
def _default_seccomp(capabilities: tuple[str, ...], socketcall: bool) -> dict[str, Any]:
    return defaults.decide_socketcall(defaults.default_seccomp(capabilities), allowed=socketcall)


def cgroups_path(record: ContainerRecord, tag: str) -> str:
    """Where its control groups are: below `--cgroup-parent`, or below ours, named by ``tag``."""
    return "/".join(("", *filter(None, (record.host_config.cgroup_parent or tag).split("/")), record.id))


def oci_config(record: ContainerRecord, around: Surroundings) -> dict[str, Any]:
    """The whole config.json. The root filesystem itself stands in ``Launch.rootfs``."""
    config, host = record.config, record.host_config
    options = security.parse_security_options(host.security_opt)
    open_paths = host.privileged or options.unconfined_paths
    result: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": process(record, around),
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "mounts": mounts(record, around),
        "annotations": dict(host.annotations or {}),
        "linux": {
            "namespaces": namespaces(host, around.joined),
            "cgroupsPath": around.cgroups_path,
            "resources": resources(host),
            "devices": devices(host),
            "maskedPaths": [] if open_paths else host.masked_paths if host.masked_paths is not None else defaults.masked_paths(),
            "readonlyPaths": []
            if open_paths
            else host.readonly_paths
            if host.readonly_paths is not None
            else list(defaults.READONLY_PATHS),
            "seccomp": seccomp_of(host, capabilities_of(host, around.available_capabilities), record.architecture, default=around.seccomp),
            "sysctl": dict(host.sysctls or {}),
            "rootfsPropagation": _root_propagation(record.mounts),
        },
    }
    if around.joined.get("uts") is None:
        result["hostname"], result["domainname"] = config.hostname, config.domainname
    return result


def namespaces(host: HostConfig, joined: Mapping[str, str]) -> list[dict[str, str]]:
    """New ones, joined ones by path; one of the host's own is simply not named. The network namespace comes as a descriptor."""
    result = [{"type": "mount"}]
    for kind in ("pid", "ipc", "uts", "cgroup"):
        path = joined.get(kind)
        if path is None:
            result.append({"type": kind})
        elif path:
            result.append({"type": kind, "path": path})
    return result


def _root_propagation(mounts_of: Sequence[MountRecord]) -> str:
    kinds = {record.propagation for record in mounts_of if record.type == "bind"}
    if kinds & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if kinds & {"slave", "rslave"} else "rprivate"


def mounts(record: ContainerRecord, around: Surroundings) -> list[dict[str, Any]]:
    """Kernel file systems first, then the container's own by depth, then hosts, hostname and resolv.conf unless something covers them."""
    host = record.host_config
    writable_cgroups = security.parse_security_options(host.security_opt).writable_cgroups
    result = defaults.mounts(shm_bytes=host.shm_size, privileged=host.privileged, writable_cgroups=writable_cgroups)
    if host.ipc_mode == "none":
        result = [mount for mount in result if mount["destination"] != "/dev/shm"]
    elif around.joined.get("ipc") is not None and any(mount["destination"] == "/dev/shm" for mount in result):
        result = [mount if mount["destination"] != "/dev/shm" else _joined_shm(around) for mount in result]
    own = sorted(record.mounts, key=lambda mount: mount.destination.count("/"))
    replaced = {mount.destination for mount in own}
    result = [mount for mount in result if mount["destination"] not in replaced or mount["destination"] in ("/dev", "/proc", "/sys")]
    result += [_own_mount(mount, around.parts) for mount in own]
    for destination, source in around.files.items():
        if destination not in replaced:
            access = ["ro"] if host.readonly_rootfs else []
            result.append({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", *access]})
    return result


def _joined_shm(around: Surroundings) -> dict[str, Any]:
    return {"destination": "/dev/shm", "type": "bind", "source": around.shm, "options": ["rbind", "rprivate"]}


def _own_mount(mount: MountRecord, parts: Mapping[str, str]) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    if mount.type == "tmpfs":
        options = ["nosuid", "nodev", "noexec", *(["ro"] if mount.read_only else []), *mount.options]
        for word in ("suid", "dev", "exec"):
            if word in mount.options:
                options = [option for option in options if option != "no" + word]
        return {"destination": mount.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    source = parts.get(mount.destination, mount.source)
    bind = "bind" if mount.non_recursive else "rbind"
    return {"destination": mount.destination, "type": "bind", "source": source, "options": [bind, access, mount.propagation or "rprivate"]}


def resources(host: HostConfig) -> dict[str, Any]:
    """``linux.resources``: only what was asked for, and the default limit on processes."""
    memory = {
        "limit": host.memory or None,
        "swap": host.memory_swap or None,
        "reservation": host.memory_reservation or None,
        "swappiness": None if host.memory_swappiness in (None, -1) else host.memory_swappiness,
        "disableOOMKiller": True if host.oom_kill_disable else None,
    }
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus:
        period, quota = 100_000, host.nano_cpus * 100_000 // 1_000_000_000
    cpu = {
        "shares": host.cpu_shares or None,
        "quota": quota or None,
        "period": period or None,
        "cpus": host.cpuset_cpus or None,
        "mems": host.cpuset_mems or None,
    }
    pids = host.pids_limit
    limit = defaults.PIDS_LIMIT if pids is None else UNLIMITED if pids <= 0 else pids
    result: dict[str, Any] = {
        "memory": _present(memory),
        "cpu": _present(cpu),
        "pids": {"limit": limit},
        "blockIO": _block_io(host),
        "devices": device_rules(host),
    }
    return {key: value for key, value in result.items() if value}


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _block_io(host: HostConfig) -> dict[str, Any]:
    result: dict[str, Any] = {"weight": host.blkio_weight} if host.blkio_weight else {}
    if host.blkio_weight_device:
        result["weightDevice"] = [{**_numbers(device.path), "weight": device.weight} for device in host.blkio_weight_device]
    for key, limits in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if limits:
            result[key] = [{**_numbers(limit.path), "rate": limit.rate} for limit in limits]
    return result


def _numbers(path: str) -> dict[str, int]:
    try:
        number = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidRequest(f"stat {path}: {(error.strerror or '').lower()}") from error
    return {"major": os.major(number), "minor": os.minor(number)}


def devices(host: HostConfig) -> list[dict[str, Any]]:
    """The device nodes beyond the standard ones."""
    if host.privileged:
        return _host_devices()
    return [node for mapping in host.devices or () for node in _mapped(mapping)]


def _mapped(mapping: DeviceMapping) -> list[dict[str, Any]]:
    """One `--device`: a node, or every node below a directory."""
    source, target = mapping.path_on_host, mapping.path_in_container or mapping.path_on_host
    if os.path.isdir(source):
        found = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names]
        if nodes := [_node(path, target + path.removeprefix(source)) for path in found if _is_device(path)]:
            return nodes
    return [_node(source, target)]


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _node(path: str, target: str) -> dict[str, Any]:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise InvalidRequest(
            f'error gathering device information while adding custom device "{path}": {(error.strerror or "").lower()}'
        ) from error
    if not (stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode)):
        raise InvalidRequest(f'error gathering device information while adding custom device "{path}": not a device node')
    return {
        "path": target,
        "type": "c" if stat.S_ISCHR(facts.st_mode) else "b",
        "major": os.major(facts.st_rdev),
        "minor": os.minor(facts.st_rdev),
        "fileMode": stat.S_IMODE(facts.st_mode),
        "uid": facts.st_uid,
        "gid": facts.st_gid,
    }


_NOT_SHARED = frozenset({"pts", "shm", "fd", "mqueue", "console"})


def _host_devices() -> list[dict[str, Any]]:
    """Every node of the host's /dev, for `--privileged`."""
    found = []
    for folder, names, files in os.walk("/dev"):
        if folder == "/dev":
            names[:] = [name for name in names if name not in _NOT_SHARED]
        found += [
            _node(path, path)
            for name in files
            if name not in _NOT_SHARED and _is_device(path := os.path.join(folder, name)) and not os.path.islink(path)
        ]
    return found


def device_rules(host: HostConfig) -> list[dict[str, Any]]:
    """The device cgroup's rules, in order: deny everything, then what is allowed."""
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = list(defaults.device_rules())
    for mapping in host.devices or ():
        rules += [
            {
                "allow": True,
                "type": node["type"],
                "major": node["major"],
                "minor": node["minor"],
                "access": mapping.cgroup_permissions or "rwm",
            }
            for node in _mapped(mapping)
        ]
    return rules + [_parsed_rule(text) for text in host.device_cgroup_rules or ()]


def _parsed_rule(text: str) -> dict[str, Any]:
    """`c 1:3 rwm`, `b *:* m`."""
    words = text.split()
    try:
        kind, numbers, access = words
        major, minor = numbers.split(":")
        if kind not in "abc" or set(access) - set("rwm"):
            raise ValueError(text)
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        for name, number in (("major", major), ("minor", minor)):
            if number != "*":
                rule[name] = int(number)
    except ValueError:
        raise InvalidRequest(f"invalid device cgroup rule format: '{text}'") from None
    return rule
