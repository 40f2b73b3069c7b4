"""An OCI ``config.json`` becomes an ordered list of steps: pure, so a plan can be printed and tested without running it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wherry.kernel import mount, namespace
from wherry.kernel.userns import IdMap
from wherry.runtime import covers, devices, labels, mounting, options, steps
from wherry.runtime.failure import StartFailure

NAMESPACES = {
    "user": namespace.CLONE_NEWUSER,
    "mount": namespace.CLONE_NEWNS,
    "uts": namespace.CLONE_NEWUTS,
    "ipc": namespace.CLONE_NEWIPC,
    "network": namespace.CLONE_NEWNET,
    "pid": namespace.CLONE_NEWPID,
    "cgroup": namespace.CLONE_NEWCGROUP,
    "time": namespace.CLONE_NEWTIME,
}
_PROPAGATION = {
    **{"private": mount.MS_PRIVATE, "slave": mount.MS_SLAVE, "shared": mount.MS_SHARED, "unbindable": mount.MS_UNBINDABLE},
    **{"rprivate": mount.MS_REC | mount.MS_PRIVATE, "rslave": mount.MS_REC | mount.MS_SLAVE},
    **{"rshared": mount.MS_REC | mount.MS_SHARED, "runbindable": mount.MS_REC | mount.MS_UNBINDABLE},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the first process is born, then its steps in order."""

    birth: Birth
    new_network: bool
    steps: tuple[steps.Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """All that the parent needs: ``clone_flags``; ``pid_namespace``: one to be born into, by path; the group of the container."""

    clone_flags: int
    pid_namespace: str
    cgroups_path: str


def birth(launch: Mapping[str, Any], *, netns_fd: int = -1, bundle: bool = False) -> Birth:
    """The part of a plan that comes before its first process.  Raises StartFailure for a namespace that is not supported."""
    linux: Mapping[str, Any] = launch["config"].get("linux") or {}
    _refuse_namespaces(linux, bundle=bundle)
    wanted = _namespaces(linux, netns_fd)
    return Birth(
        clone_flags=sum(NAMESPACES[kind] for kind, path in wanted.items() if not path and kind not in ("cgroup", "time")),
        pid_namespace=wanted.get("pid", ""),
        cgroups_path=linux.get("cgroupsPath") or "",
    )


def make(launch: Mapping[str, Any], *, netns_fd: int = -1, bundle: bool = False, pivot: bool = True) -> Plan:
    """Plan a launch (its JSON form, see ``spec.launch.Launch``).  Raises StartFailure for what is not supported, by name.

    ``bundle``: the caller does what takes a second process: it joins namespaces before the birth, makes those of users and time, runs
    hooks. Without ``pivot`` the root is changed by chroot.
    """
    config: Mapping[str, Any] = launch["config"]
    linux: Mapping[str, Any] = config.get("linux") or {}
    _refuse(config, linux, bundle=bundle)
    begin = birth(launch, netns_fd=netns_fd, bundle=bundle)
    wanted = _namespaces(linux, netns_fd)
    entries = list(config.get("mounts") or ())
    mounts = [(entry, labels.label(_options(entry), entry.get("type") or "", linux.get("mountLabel") or "")) for entry in entries]
    kinds = [entry.get("type") for entry in entries]
    shows_cgroups = "cgroup" in kinds
    if kinds.count("cgroup") > 1:
        raise StartFailure(128, "mounts: only one of type cgroup is supported")
    found: list[steps.Step] = [steps.JoinCgroup(begin.cgroups_path, "cgroup" in wanted and not wanted["cgroup"])]
    found += [steps.JoinNamespace(namespace.CLONE_NEWNET, "", netns_fd)] if netns_fd >= 0 else []
    if not bundle:
        found += [steps.JoinNamespace(NAMESPACES[kind], path) for kind, path in wanted.items() if path and kind != "pid"]
    process: Mapping[str, Any] = config.get("process") or {}
    score = process.get("oomScoreAdj")
    found += [steps.AdjustOomScore(score, bundle)] if score is not None and "user" not in wanted else []
    if process.get("apparmorProfile") or process.get("selinuxLabel"):
        found.append(steps.OpenLabels(process.get("apparmorProfile") or "", process.get("selinuxLabel") or ""))
    user: Mapping[str, Any] = process.get("user") or {}
    found += [steps.BecomeRoot(user.get("uid") or 0, user.get("gid") or 0)] if bundle and "user" in wanted else []
    found += [
        mounting.OpenSource(index, entry["source"], parsed, *_maps(entry, linux, parsed))
        for index, (entry, parsed) in enumerate(mounts)
        if parsed.bind or entry.get("type") == "bind"
    ]
    found += [mounting.OpenCgroups(begin.cgroups_path)] if shows_cgroups else []
    found.append(mounting.Detach(_PROPAGATION[linux.get("rootfsPropagation") or "rslave"]))
    found += _file_system(launch, config, linux, mounts, pivot=pivot)
    return Plan(
        birth=begin,
        new_network=wanted.get("network") == "",
        steps=tuple(found),
    )


def in_group(planned: Plan, path: str) -> Plan:
    """A plan that was made for no control group, for that at ``path``."""
    concerned = steps.JoinCgroup | mounting.OpenCgroups | mounting.MountCgroups
    found = tuple(replace(step, path=path) if isinstance(step, concerned) else step for step in planned.steps)
    return replace(planned, birth=replace(planned.birth, cgroups_path=path), steps=found)


def _namespaces(linux: Mapping[str, Any], netns_fd: int) -> dict[str, str]:
    """Kind -> path, "" for a new one; without the network that came by descriptor."""
    wanted = {entry["type"]: entry.get("path") or "" for entry in linux.get("namespaces") or ()}
    wanted.setdefault("mount", "")
    if netns_fd >= 0:
        wanted.pop("network", None)
    return wanted


def _options(entry: Mapping[str, Any]) -> options.MountOptions:
    try:
        parsed = options.parse(entry.get("options") or ())
    except ValueError as error:
        raise StartFailure(128, f"mount {entry['destination']}: {error}") from None
    is_bind = parsed.bind or entry.get("type") == "bind"
    if (parsed.idmap or entry.get("uidMappings")) and not is_bind:
        raise StartFailure(128, f"mount {entry['destination']}: only a bind mount can have uidMappings and gidMappings")
    if is_bind and parsed.data:
        raise StartFailure(128, f"mount {entry['destination']}: a bind mount cannot have the option {parsed.data[0][0]}")
    return parsed


def _maps(entry: Mapping[str, Any], linux: Mapping[str, Any], parsed: options.MountOptions) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
    """Of an id-mapped mount; the container's own where the mount names none."""
    uids, gids = entry.get("uidMappings"), entry.get("gidMappings")
    if not (parsed.idmap or uids or gids):
        return (), ()
    found = id_maps(uids or linux.get("uidMappings")), id_maps(gids or linux.get("gidMappings"))
    if not all(found):
        raise StartFailure(128, f"mount {entry['destination']}: an id-mapped mount needs uidMappings and gidMappings")
    return found


def id_maps(mappings: Any) -> tuple[IdMap, ...]:
    """OCI mappings as the kernel wants them: inside, outside, how many."""
    return tuple((one["containerID"], one["hostID"], one["size"]) for one in mappings or ())


def _file_system(
    launch: Mapping[str, Any],
    config: Mapping[str, Any],
    linux: Mapping[str, Any],
    mounts: Sequence[tuple[Any, options.MountOptions]],
    *,
    pivot: bool,
) -> list[steps.Step]:
    rootfs = launch["rootfs"]
    found: list[steps.Step] = [mounting.MountRoot(tuple(rootfs["lower"]), rootfs["upper"], rootfs["work"], bool(rootfs.get("recursive")))]
    copy_ups = {entry["destination"]: entry["source"] for entry in launch.get("copy_ups") or ()}
    process: Mapping[str, Any] = config.get("process") or {}
    devices_made = False
    for index, (entry, parsed) in enumerate(mounts):
        destination = posixpath.normpath("/" + entry["destination"].lstrip("/"))
        kind = "bind" if parsed.bind else entry.get("type") or "bind"
        _check_destination(destination, kind)
        # nodes go in before anything is mounted on top of them, after /dev itself
        if (
            not devices_made
            and destination != "/dev"
            and any(isinstance(one, mounting.Mount) and one.destination == "/dev" for one in found)
        ):
            devices_made = True
            found.append(_devices(linux))
        if kind == "cgroup":
            found.append(mounting.MountCgroups(destination, parsed, linux.get("cgroupsPath") or ""))
        else:
            copy_up = copy_ups.get(entry["destination"], "")
            found.append(mounting.Mount(index, destination, "" if kind == "bind" else kind, entry.get("source") or kind, parsed, copy_up))
    if not devices_made:
        found.append(_devices(linux))
    if launch.get("terminal"):
        height, width = launch.get("console_size") or (0, 0)
        found.append(devices.OpenConsole(height, width))
    sysctls: Mapping[str, str] = linux.get("sysctl") or {}
    found += [steps.SetSysctls(tuple(sysctls.items()))] if sysctls else []
    found += [covers.MaskPaths(paths) for paths in _split(linux.get("maskedPaths"))]
    found += [covers.ReadonlyPaths(paths) for paths in _split(linux.get("readonlyPaths"))]
    if config.get("hostname") or config.get("domainname"):
        found.append(steps.SetNames(config.get("hostname") or "", config.get("domainname") or ""))
    if (cwd := process.get("cwd") or "/") != "/":
        found.append(mounting.MakeDirectory(posixpath.normpath(cwd)))
    found += [steps.SetPersonality(linux["personality"])] if linux.get("personality") else []
    found += [steps.AwaitHooks()] if config.get("hooks") else []
    kind = linux.get("rootfsPropagation") or "rprivate"
    readonly = bool((config.get("root") or {}).get("readonly"))
    found.append(mounting.EnterRoot(readonly, 0 if "private" in kind else _PROPAGATION[kind], pivot))
    return found


def _split(paths: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Those in /proc, which may be dealt with ahead of time, and the others."""
    inside = tuple(path for path in paths or () if path.startswith("/proc/"))
    outside = tuple(path for path in paths or () if not path.startswith("/proc/"))
    return [group for group in (inside, outside) if group]


def _devices(linux: Mapping[str, Any]) -> devices.MakeDevices:
    extra = tuple(
        (
            one["path"],
            one["type"],
            one.get("major") or 0,
            one.get("minor") or 0,
            0o666 if one.get("fileMode") is None else one["fileMode"] & 0o7777,
            one.get("uid") or 0,
            one.get("gid") or 0,
        )
        for one in linux.get("devices") or ()
    )
    named = {one[0] for one in extra}
    return devices.MakeDevices((*(one for one in devices.DEVICES if one[0] not in named), *extra))


def _check_destination(destination: str, kind: str) -> None:
    if destination == "/":
        raise StartFailure(128, "nothing can be mounted on the root itself: /")
    inside_proc = destination == "/proc" or destination.startswith("/proc/")
    if inside_proc and not (destination == "/proc" and kind == "proc"):
        allowed = ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev", "sys/kernel/ns_last_pid")
        if destination.removeprefix("/proc/") not in allowed or kind != "bind":
            raise StartFailure(128, f'"{destination}" cannot be mounted because it is inside /proc')


def _refuse(config: Mapping[str, Any], linux: Mapping[str, Any], *, bundle: bool) -> None:
    process: Mapping[str, Any] = config.get("process") or {}
    mappings = linux.get("uidMappings") or linux.get("gidMappings")
    for name, value in (
        ("hooks", config.get("hooks") and not bundle),
        ("linux.uidMappings", mappings and not bundle),
        ("linux.timeOffsets", linux.get("timeOffsets") and not bundle),
        ("linux.intelRdt", linux.get("intelRdt")),
        ("linux.memoryPolicy", linux.get("memoryPolicy")),
        ("linux.netDevices", linux.get("netDevices")),
        ("linux.mountLabel: this kernel has no SELinux: it", linux.get("mountLabel") and not labels.has_selinux()),
        ("process.apparmorProfile: this kernel has no AppArmor: it", process.get("apparmorProfile") and not labels.has_apparmor()),
        ("process.selinuxLabel: this kernel has no SELinux: it", process.get("selinuxLabel") and not labels.has_selinux()),
        ("process.commandLine", process.get("commandLine")),
        *((name, config.get(name)) for name in ("vm", "windows", "solaris", "zos")),
    ):
        if value:
            raise StartFailure(128, f"{name} is not supported")
    if (kind := linux.get("rootfsPropagation") or "private") not in _PROPAGATION:
        raise StartFailure(128, f"linux.rootfsPropagation {kind} is not one of {', '.join(_PROPAGATION)}")


def _refuse_namespaces(linux: Mapping[str, Any], *, bundle: bool) -> None:
    kinds = [entry["type"] for entry in linux.get("namespaces") or ()]
    for entry in linux.get("namespaces") or ():
        if entry["type"] not in NAMESPACES or (entry["type"] in ("user", "time") and not (entry.get("path") or bundle)):
            raise StartFailure(128, f"a new {entry['type']} namespace is not supported")
        if kinds.count(entry["type"]) > 1:
            raise StartFailure(128, f"linux.namespaces names {entry['type']} twice")
    for name, needs in (("uidMappings", "user"), ("timeOffsets", "time")):
        if linux.get(name) and needs not in kinds:
            raise StartFailure(128, f"linux.{name} needs a {needs} namespace")
