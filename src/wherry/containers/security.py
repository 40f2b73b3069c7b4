"""Capabilities and security options of a request: pure functions from Docker's words to sets and flags."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.errors import InvalidRequest, NotSupported

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    """What `--security-opt` asked for.  ``seccomp``: None for the default profile, False for none, or a profile's JSON."""

    seccomp: dict[str, Any] | bool | None = None
    no_new_privileges: bool = False
    unconfined_paths: bool = False
    apparmor: str = ""
    label: tuple[str, ...] = ()


def parse_security_options(options: Iterable[str] | None) -> SecurityOptions:
    """Raises InvalidRequest: `invalid --security-opt 2: "bogus=1"`, NotSupported for label types the kernel lacks."""
    seccomp: dict[str, Any] | bool | None = None
    no_new_privileges = unconfined_paths = False
    apparmor = ""
    labels: list[str] = []
    for option in options or ():
        key, separator, value = option.partition("=") if "=" in option else option.partition(":")
        match key:
            case "no-new-privileges":
                if separator and value.lower() not in ("true", "false"):
                    raise InvalidRequest(f'invalid --security-opt 2: "{option}"')
                no_new_privileges = value.lower() != "false"
            case "seccomp" if value:
                seccomp = False if value == "unconfined" else None if value == "builtin" else _profile(value)
            case "systempaths" if value == "unconfined":
                unconfined_paths = True
            case "apparmor" if value:
                apparmor = value
            case "label" if value:
                labels.append(value)
            case _:
                raise InvalidRequest(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        seccomp=seccomp, no_new_privileges=no_new_privileges, unconfined_paths=unconfined_paths, apparmor=apparmor, label=tuple(labels)
    )


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


def refuse_labels(options: SecurityOptions, *, apparmor_available: bool) -> None:
    """A profile the kernel cannot apply is refused, never dropped silently."""
    if options.apparmor and options.apparmor != "unconfined" and not apparmor_available:
        raise NotSupported("--security-opt apparmor: AppArmor is not enabled on this kernel")
    if any(label != "disable" for label in options.label):
        raise NotSupported("--security-opt label: SELinux labels are not supported")
