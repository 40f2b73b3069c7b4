"""A bundle's ``config.json``: read, and refused by name where it asks for what cannot be done.

What the plan of a container refuses (`wherry.runtime.plan`) is not repeated here.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from wherry.bundle import shape
from wherry.bundle.failures import Failure
from wherry.bundle.hooks import KINDS
from wherry.bundle.journal import Journal
from wherry.kernel import cgroup, credentials
from wherry.runtime import defaults, labels

_CONFIG_LIMIT_BYTES = 64 << 20
_CHUNK_BYTES = 64 << 10
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.+-]+)?")
# What each namespace separates.  Source: OCI runtime-spec 1.2, config-linux.md#sysctl
_IPC_SYSCTLS = frozenset(
    (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    )
)
SECCOMP_FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 0, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}


def load(directory: str) -> Mapping[str, Any]:
    """The config of a bundle, which nobody may change: who asks next may get the same.  Raises Failure."""
    path = f"{directory}/config.json"
    try:
        return _decode(_read(path))
    except FileNotFoundError:
        raise Failure(f"JSON specification file {path} not found") from None
    except (ValueError, OSError, RecursionError) as error:
        raise Failure(f"{path}: {error}") from None
    except Failure as failure:
        raise Failure(f"{path}: {failure.message}") from None


@lru_cache(maxsize=1)
def _decode(text: bytes) -> Mapping[str, Any]:
    found: Mapping[str, Any] = shape.checked(json.loads(text), shape.CONFIG)
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) < _CONFIG_LIMIT_BYTES and (chunk := os.read(fd, _CHUNK_BYTES)):
            data += chunk
        return data
    finally:
        os.close(fd)


def check(config: Mapping[str, Any], directory: str) -> None:
    """Raises Failure naming the field that is missing, contradicts another or is not supported."""
    version = str(config.get("ociVersion") or "")
    matched = _VERSION.fullmatch(version)
    if matched is None or matched[1] != "1":
        raise Failure(f"ociVersion {version!r} is not supported: this runtime knows 1.0.0 to 1.2")
    _check_process(config.get("process"), "process")
    root = config.get("root") or {}
    if not root.get("path"):
        raise Failure("root.path is missing")
    if not os.path.isdir(rootfs(config, directory)):
        raise Failure(f"root.path: {rootfs(config, directory)} is not a directory")
    linux = config.get("linux") or {}
    kinds = {one.get("type"): one.get("path") or "" for one in linux.get("namespaces") or ()}
    if "mount" not in kinds or kinds["mount"]:
        raise Failure("linux.namespaces: a container needs a new mount namespace")
    if (config.get("hostname") or config.get("domainname")) and "uts" not in kinds:
        raise Failure("hostname and domainname need a private uts namespace")
    if kinds.get("user") == "" and not (linux.get("uidMappings") and linux.get("gidMappings")):
        raise Failure("a new user namespace needs linux.uidMappings and linux.gidMappings")
    _check_sysctls(linux.get("sysctl") or {}, kinds)
    _check_hooks(config.get("hooks") or {})
    _check_paths(linux)
    for index, entry in enumerate(config.get("mounts") or ()):
        if not entry.get("destination"):
            raise Failure(f"mounts[{index}].destination is missing")
    seccomp_flags(linux.get("seccomp"))


def rootfs(config: Mapping[str, Any], directory: str) -> str:
    path: str = config["root"]["path"]
    return os.path.realpath(path if path.startswith("/") else f"{directory}/{path}")


def check_process(process: Any) -> None:
    """The process object of an exec.  Raises Failure."""
    _check_process(process, "process")
    if process.get("apparmorProfile") and not labels.has_apparmor():
        raise Failure("process.apparmorProfile: this kernel has no AppArmor: it is not supported")
    if process.get("selinuxLabel") and not labels.has_selinux():
        raise Failure("process.selinuxLabel: this kernel has no SELinux: it is not supported")


def with_known_capabilities(process: dict[str, Any], journal: Journal) -> dict[str, Any]:
    """The process without capabilities that there are none of, which is told.  Source: OCI runtime-spec 1.2, config.md#linux-process."""
    sets: Mapping[str, Any] = process.get("capabilities") or {}
    unknown = dict.fromkeys(name for names in sets.values() for name in names or () if name not in credentials.NUMBERS)
    if not unknown:
        return process
    journal.warn(f"process.capabilities: ignored, this system does not know them: {', '.join(unknown)}")
    known = {kind: [name for name in names or () if name not in unknown] for kind, names in sets.items()}
    return {**process, "capabilities": known}


def tell_ignored(config: Mapping[str, Any], journal: Journal) -> None:
    """Limits of kernel memory are not applied, as in other runtimes: kernels give them up.  Source: config-linux.md#memory."""
    memory = ((config.get("linux") or {}).get("resources") or {}).get("memory") or {}
    for name in ("kernel", "kernelTCP"):
        if memory.get(name):
            journal.warn(f"linux.resources.memory.{name}: ignored, current kernels do not have it")


def seccomp_flags(seccomp: Any) -> int:
    """Bits for seccomp(2).  Raises Failure for a flag that is not supported, notify among them."""
    if not seccomp:
        return 0
    bits = 0
    for name in seccomp.get("flags") or ():
        if name not in SECCOMP_FLAGS:
            raise Failure(f"linux.seccomp.flags: {name} is not supported")
        bits |= SECCOMP_FLAGS[name]  # a process of one thread has nobody to synchronise
    notify = [one.get("action") for one in seccomp.get("syscalls") or ()] + [seccomp.get("defaultAction")]
    if seccomp.get("listenerPath") or "SCMP_ACT_NOTIFY" in notify:
        raise Failure("linux.seccomp: SCMP_ACT_NOTIFY and listenerPath are not supported")
    return bits


def adapt(config: dict[str, Any], directory: str, ident: str, groups: cgroup.Hierarchies) -> dict[str, Any]:
    """The config as the runtime wants it: a group of its own, the device rules that the specification leaves to runtimes, and sources of
    bind mounts that do not depend on the working directory: they are relative to the bundle's.
    """
    linux = dict(config.get("linux") or {})
    path = linux.get("cgroupsPath") or f"/{ident}"
    linux["cgroupsPath"] = posixpath.normpath("/" + path.strip("/"))
    if ".." in path.split("/"):
        raise Failure(f"linux.cgroupsPath {path} leads upwards")
    if linux["cgroupsPath"] == "/":
        raise Failure("linux.cgroupsPath: the root of the hierarchies cannot be a container's: everything in it ends with the container")
    resources = dict(linux.get("resources") or {})
    check_resources(resources, groups)
    resources["devices"] = device_rules(resources.get("devices") or [{"allow": False, "access": "rwm"}])
    linux["resources"] = resources
    return {**config, "linux": linux, "mounts": [_from_bundle(one, directory) for one in config.get("mounts") or ()]}


def _from_bundle(entry: Mapping[str, Any], directory: str) -> Mapping[str, Any]:
    source = entry.get("source") or "/"
    if source.startswith("/") or not (entry.get("type") == "bind" or {"bind", "rbind"} & set(entry.get("options") or ())):
        return entry
    return {**entry, "source": f"{directory}/{source}"}


def device_rules(rules: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """With those for what has to work, whatever the rules leave out.  Source: OCI runtime-spec 1.2, config-linux.md#default-devices."""
    return [*rules, *(one for one in defaults.device_rules() if one["allow"])]


def check_resources(resources: Mapping[str, Any], groups: cgroup.Hierarchies) -> None:
    """Raises Failure for a limit that this hierarchy of control groups does not have."""
    memory = resources.get("memory") or {}
    if groups.v2:
        for name in ("swappiness", "disableOOMKiller"):
            if memory.get(name):
                raise Failure(f"linux.resources.memory.{name}: cgroup v2 has no such limit")
    elif resources.get("unified"):
        raise Failure("linux.resources.unified needs cgroup v2")
    for name in resources.get("unified") or {}:
        if "/" in name or name.startswith("."):
            raise Failure(f"linux.resources.unified: {name} is not the name of a file of a control group")


def _check_process(process: Any, where: str) -> None:
    if not isinstance(process, dict):
        raise Failure(f"{where} is missing")
    if not process.get("args"):
        raise Failure(f"{where}.args must not be empty")
    cwd = process.get("cwd") or ""
    if not cwd.startswith("/"):
        raise Failure(f"{where}.cwd must be an absolute path, not {cwd!r}")
    for pair in process.get("env") or ():
        if "=" not in pair[1:]:
            raise Failure(f"{where}.env: {pair!r} is not NAME=VALUE")
    seen: set[str] = set()
    for limit in process.get("rlimits") or ():
        if missing := {"type", "soft", "hard"} - limit.keys():
            raise Failure(f"{where}.rlimits: {', '.join(sorted(missing))} is missing")
        if limit["type"] not in _rlimits():
            raise Failure(f"{where}.rlimits: {limit['type']} is not a limit of this system")
        if limit["type"] in seen:
            raise Failure(f"{where}.rlimits names {limit['type']} twice")
        seen.add(limit["type"])


def _rlimits() -> set[str]:
    import resource

    return {name for name in dir(resource) if name.startswith("RLIMIT_")}


def _check_sysctls(values: Mapping[str, str], kinds: Mapping[str, str]) -> None:
    for name in values:
        key = name.replace("/", ".")
        if key in _IPC_SYSCTLS or key.startswith("fs.mqueue."):
            needs = "ipc"
        elif key.startswith("net."):
            needs = "network"
        elif key == "kernel.hostname":
            raise Failure(f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
        elif key == "kernel.domainname":
            needs = "uts"
        elif key.startswith("user."):
            needs = "user"
        else:
            raise Failure(f'sysctl "{name}" is not in a separate kernel namespace')
        if needs not in kinds:
            raise Failure(f'sysctl "{name}" is not allowed in the hosts {needs} namespace')


def _check_paths(linux: Mapping[str, Any]) -> None:
    devices = linux.get("devices") or ()
    for field, paths in (
        ("maskedPaths", linux.get("maskedPaths") or ()),
        ("readonlyPaths", linux.get("readonlyPaths") or ()),
        ("devices", [one.get("path") or "" for one in devices]),
        ("namespaces", [one["path"] for one in linux.get("namespaces") or () if one.get("path")]),
    ):
        for path in paths:
            if not path.startswith("/"):
                raise Failure(f"linux.{field}: {path!r} is not an absolute path")
    for one in devices:
        if one.get("type") not in ("c", "b", "u", "p"):
            raise Failure(f"linux.devices: {one['path']}: {one.get('type')!r} is not a type of device: c, b, u or p")
        if one["type"] != "p" and not {"major", "minor"} <= one.keys():
            raise Failure(f"linux.devices: {one['path']} has no major or minor number")


def _check_hooks(hooks: Mapping[str, Any]) -> None:
    for kind in KINDS:
        for hook in hooks.get(kind) or ():
            if not str(hook.get("path") or "").startswith("/"):
                raise Failure(f"hooks.{kind}: path {hook.get('path')!r} is not absolute")
            if hook.get("timeout") is not None and hook["timeout"] <= 0:
                raise Failure(f"hooks.{kind}: timeout {hook['timeout']} is not greater than 0")
