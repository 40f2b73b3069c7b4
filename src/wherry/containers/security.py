"""Capabilities and security options of a request: pure functions from Docker's words to sets and flags."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from wherry.errors import InvalidRequest, NotSupported
from wherry.spec.settings import SECCOMP_BUILTIN, SECCOMP_UNCONFINED, SECURITY_PROFILES

# include/uapi/linux/capability.h, in order of number
CAPABILITIES = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
        "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
        "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
        "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)


def normalised(names: Iterable[str] | None, list_name: str) -> list[str]:
    """`net_admin`, `CAP_NET_ADMIN`, `ALL` as the kernel's names.  Raises InvalidRequest: `invalid CapAdd: unknown capability: "CAP_X"`."""
    result = []
    for name in names or ():
        full = name.upper() if name.upper() == "ALL" else "CAP_" + name.upper().removeprefix("CAP_")
        if full != "ALL" and full not in CAPABILITIES:
            raise InvalidRequest(f'invalid {list_name}: unknown capability: "{full}"')
        result.append(full)
    return result


def effective(
    default: Sequence[str], add: Iterable[str] | None, drop: Iterable[str] | None, *, privileged: bool, available: Sequence[str]
) -> list[str]:
    """The capabilities a container gets, a subset of ``available`` (what the daemon itself may give), in the kernel's order."""
    added, dropped = set(normalised(add, "CapAdd")), set(normalised(drop, "CapDrop"))
    if privileged:
        wanted = set(available)
    elif "ALL" in added:
        wanted = set(available) - dropped
    elif "ALL" in dropped:
        wanted = added - {"ALL"}
    else:
        wanted = (set(default) | added) - dropped
    return [name for name in CAPABILITIES if name in wanted and name in available]


STRICT_LACKS = frozenset({"CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_NET_RAW"})
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})  # strconv.ParseBool
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    """What `--security-opt` asked for.  ``seccomp``: None for the daemon's profile, True for the builtin one, False for none, or one.

    ``strict`` and ``no_new_privileges`` are None where nothing was said.
    """

    seccomp: dict[str, Any] | bool | None = None
    strict: bool | None = None
    asked_no_new_privileges: bool | None = None
    socketcall: bool = False
    unconfined_paths: bool = False
    writable_cgroups: bool = False
    apparmor: str = ""
    label: tuple[str, ...] = ()

    @property
    def no_new_privileges(self) -> bool:
        """What was said, else what the profile says."""
        return bool(self.strict) if self.asked_no_new_privileges is None else self.asked_no_new_privileges

    def narrowed(self, capabilities: Iterable[str]) -> list[str]:
        """The default capabilities as the profile leaves them."""
        return [name for name in capabilities if not (self.strict and name in STRICT_LACKS)]


def parse_security_options(options: Iterable[str] | None) -> SecurityOptions:
    """Raises InvalidRequest in Docker's words: `invalid --security-opt 2: "bogus=1"`."""
    return _parsed(tuple(options or ()))


@lru_cache(maxsize=64)  # a start asks for them several times, and a profile is long
def _parsed(options: tuple[str, ...]) -> SecurityOptions:
    found: dict[str, Any] = {}
    labels: list[str] = []
    for option in options:
        key, separator, value = option.partition("=") if "=" in option else option.partition(":")
        if not separator and key not in ("no-new-privileges", "disable"):
            raise InvalidRequest(f'invalid --security-opt 1: "{option}"')
        match key:
            case "no-new-privileges":
                found["asked_no_new_privileges"] = _truth(value, option) if separator else True
            case "seccomp":
                named = {"": None, SECCOMP_BUILTIN: True, SECCOMP_UNCONFINED: False}
                found["seccomp"] = named[value] if value in named else _profile(value)
            case "seccomp-socketcall" if value in ("allow", "deny"):
                found["socketcall"] = value == "allow"
            case "profile" if value in SECURITY_PROFILES:
                found["strict"] = value == "strict"
            case "systempaths" if value == "unconfined":
                found["unconfined_paths"] = True
            case "writable-cgroups":
                found["writable_cgroups"] = _truth(value, option)
            case "apparmor" if value:
                found["apparmor"] = value
            case "label" if value:
                labels.append(value)
            case "disable" if not separator:
                labels.append("disable")
            case _:
                raise InvalidRequest(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(label=tuple(labels), **found)


def completed(options: list[str] | None, *, profile: str, no_new_privileges: bool) -> list[str] | None:
    """The options a container is recorded with: where it said nothing, the daemon's settings speak.  Raises InvalidRequest."""
    asked = parse_security_options(options)
    added = [f"profile={profile}"] if asked.strict is None and profile != "default" else []
    if no_new_privileges and asked.asked_no_new_privileges is None:
        added.append("no-new-privileges")
    return [*(options or ()), *added] if added else options


def _truth(value: str, option: str) -> bool:
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise InvalidRequest(f'invalid --security-opt 2: "{option}"')


def _profile(text: str) -> dict[str, Any]:
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict):
        raise InvalidRequest("decoding seccomp profile failed: it is not a JSON object")
    return profile


SYSCTL_IPC = frozenset({"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
                        "kernel.shm_rmid_forced"})  # fmt: skip


def check_sysctls(sysctls: dict[str, str] | None, *, host_network: bool, host_ipc: bool) -> None:
    """Only what a namespace of the container's own holds may be set.  Raises InvalidRequest."""
    for name in sysctls or ():
        if name.startswith("net."):
            if host_network:
                raise InvalidRequest(f"invalid sysctl {name}: sysctl '{name}' is not allowed in the host network namespace")
        elif name in SYSCTL_IPC or name.startswith("fs.mqueue."):
            if host_ipc:
                raise InvalidRequest(f"invalid sysctl {name}: sysctl '{name}' is not allowed in the host ipc namespace")
        else:
            raise InvalidRequest(f"sysctl '{name}' is not in a separate kernel namespace")


def refuse_unavailable(options: SecurityOptions, *, apparmor: bool, selinux: bool, unified_cgroups: bool, privileged: bool) -> None:
    """What this machine cannot carry out is refused by name, never dropped silently.  Raises NotSupported, InvalidRequest.

    SELinux labels mean nothing on a kernel without SELinux, and are taken there as Docker takes them.
    """
    if options.apparmor and options.apparmor != "unconfined" and not apparmor:
        raise NotSupported("--security-opt apparmor: AppArmor is not enabled on this kernel")
    if selinux and any(label != "disable" for label in options.label):
        raise NotSupported("--security-opt label: SELinux labels are not supported")
    if options.writable_cgroups and not privileged and not unified_cgroups:
        raise NotSupported("--security-opt writable-cgroups needs cgroup v2: under v1 a container could lift its own device rules")
