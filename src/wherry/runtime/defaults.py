"""What a container gets when nobody says otherwise: capabilities, mounts, devices, masked paths, the seccomp profile.

Docker's defaults, tightened where that costs nothing. ``seccomp-default.json`` is moby/profiles' (Apache-2.0, Copyright The Moby Authors),
byte for byte.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from wherry.kernel import libc

CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"),
    *("CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
)
NAMESPACES = ("mount", "network", "uts", "pid", "ipc", "cgroup")
MASKED_PATHS = (
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
    # beyond Docker: facts about the host that only host monitors want, and they run privileged
    *("/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/iomem"),
    *("/proc/ioports", "/proc/key-users", "/sys/kernel/slab", "/sys/kernel/vmcoreinfo", "/sys/kernel/notes"),
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PIDS_LIMIT = 4096
SPARE_GROUP = "spare"  # how the names of control groups made ahead begin; the pids of zygote and monitor follow
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
_IO_URING = ("io_uring_setup", "io_uring_enter", "io_uring_register")
_ENOSYS = 38
_GO_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
_SCMP_ARCHITECTURE = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}


def masked_paths() -> list[str]:
    """`MASKED_PATHS`, and where this machine has them the processors' counters of overheating, as Docker does."""
    return [*MASKED_PATHS, *_thermal_paths()]


@cache
def _thermal_paths() -> tuple[str, ...]:
    return tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")))


def mounts(*, shm_bytes: int = 64 << 20, privileged: bool = False, writable_cgroups: bool = False) -> list[dict[str, Any]]:
    """The OCI mounts of every container."""
    sysfs = ["nosuid", "noexec", "nodev"] + ([] if privileged else ["ro"])
    cgroups = ["nosuid", "noexec", "nodev", "relatime"] + ([] if privileged or writable_cgroups else ["ro"])
    shm = ["nosuid", "noexec", "nodev", "mode=1777", f"size={shm_bytes}"]
    return [
        _mount("/proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("/sys", "sysfs", sysfs),
        _mount("/sys/fs/cgroup", "cgroup", cgroups),
        _mount("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        _mount("/dev/shm", "tmpfs", shm, source="shm"),
    ]


def device_rules() -> list[dict[str, Any]]:
    """The devices cgroup: nothing but the harmless ones; /dev/net/tun needs ``--device``."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
    numbers: tuple[tuple[int, int | None], ...] = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
    for major, minor in numbers:
        rule: dict[str, Any] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        rules.append(rule if minor is None else {**rule, "minor": minor})
    return rules


def load_seccomp_template() -> dict[str, Any]:
    """The profile's template as moby publishes it; the caller keeps it."""
    with open(os.path.join(os.path.dirname(__file__), "seccomp-default.json"), encoding="utf-8") as file:
        template: dict[str, Any] = json.load(file)
    return template


def default_seccomp(bounding: Collection[str]) -> dict[str, Any]:
    """The default profile for one bounding set: moby's, and io_uring is an unknown call, so that what asks for it does without."""
    found = resolve_seccomp(load_seccomp_template(), bounding)
    found["syscalls"].append({"names": list(_IO_URING), "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return found


def decide_socketcall(profile: dict[str, Any], *, allowed: bool) -> dict[str, Any]:
    """A resolved profile whose rules for socket() cannot be passed by the older call that takes its arguments by a pointer.

    ``allowed`` leaves that way open. A profile that does not look at socket()'s arguments, or never allows the older call, stays as it is.
    """
    entries = profile["syscalls"]
    looks = any(entry.get("args") for entry in entries if "socket" in entry["names"])
    if not looks or not any("socketcall" in entry["names"] for entry in entries):
        return profile
    rest = [{**entry, "names": [name for name in entry["names"] if name != "socketcall"]} for entry in entries]
    verdict = {"action": "SCMP_ACT_ALLOW"} if allowed else {"action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}
    return {**profile, "syscalls": [*(entry for entry in rest if entry["names"]), {"names": ["socketcall"], **verdict}]}


def resolve_seccomp(template: Mapping[str, Any], bounding: Collection[str], *, architecture: str = "", kernel: str = "") -> dict[str, Any]:
    """The OCI ``linux.seccomp`` object for one bounding set: moby's rules about ``includes`` and ``excludes``.

    ``architecture`` in Go's words (amd64) and ``kernel`` (a ``uname -r``) default to this machine's. Also takes a user's own profile,
    which may be a plain OCI object already.  Raises ValueError for contradictions moby refuses.
    """
    if not template.get("defaultAction"):  # Docker takes that for a profile that allows everything
        raise ValueError("it has no defaultAction")
    arch = architecture or _GO_ARCHITECTURE.get(libc.MACHINE, libc.MACHINE)
    running = _version(kernel or os.uname().release)
    if template.get("architectures") and template.get("archMap"):
        raise ValueError("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'")
    found: dict[str, Any] = {
        "defaultAction": template["defaultAction"],
        "architectures": template.get("architectures") or _architectures(template, arch),
        "syscalls": [_entry(one) for one in template.get("syscalls") or () if _applies(one, arch, set(bounding), running)],
    }
    for key in ("defaultErrnoRet", "flags", "listenerPath"):
        if template.get(key) is not None:
            found[key] = template[key]
    return found


def _mount(destination: str, kind: str, options: list[str], source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": options}


def _architectures(template: Mapping[str, Any], arch: str) -> list[str]:
    native = _SCMP_ARCHITECTURE.get(arch, "")
    for entry in template.get("archMap") or ():
        if entry["architecture"] == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return [native] if native else []


def _entry(rule: dict[str, Any]) -> dict[str, Any]:
    if rule.get("name") and rule.get("names"):
        raise ValueError("both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")
    found = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
    for key in ("errnoRet", "args"):
        if rule.get(key):
            found[key] = rule[key]
    return found


def _applies(rule: dict[str, Any], arch: str, bounding: set[str], running: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    return not (
        arch in (excludes.get("arches") or ())
        or bounding & set(excludes.get("caps") or ())
        or (excludes.get("minKernel") and running >= _version(excludes["minKernel"]))
        or (includes.get("arches") and arch not in includes["arches"])
        or not bounding >= set(includes.get("caps") or ())
        or (includes.get("minKernel") and running < _version(includes["minKernel"]))
    )


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split("-", 1)[0].split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
