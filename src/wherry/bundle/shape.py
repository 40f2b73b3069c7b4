"""What kind of value each field of a ``config.json`` has, so that nothing after this has to ask.

Fields that are not named here are left as they are. A null is as if the field was absent, as in runtimes that are written in Go.
Source: OCI runtime-spec 1.2, schema/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wherry.bundle.failures import Failure


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Many:
    """A list of ``each``."""

    each: Kind


@dataclass(frozen=True, slots=True)
class Named:
    """An object whose values are ``each``, by any name."""

    each: Kind


Kind = type[str] | type[bool] | Number | Many | Named | Mapping[str, "Kind"]

_INT64 = Number(-(1 << 63), (1 << 63) - 1)
_INT = Number(-(1 << 31), (1 << 31) - 1)
_UINT64 = Number(0, (1 << 64) - 1)
_UINT32 = Number(0, (1 << 32) - 1)
_UINT16 = Number(0, (1 << 16) - 1)
_TEXTS = Many(str)
_MAPS = Many({"containerID": _UINT32, "hostID": _UINT32, "size": _UINT32})
_RATES = Many({"major": _INT64, "minor": _INT64, "rate": _UINT64})
_OFFSET: Kind = {"secs": _INT64, "nanosecs": _UINT32}
_HOOKS = Many({"path": str, "args": _TEXTS, "env": _TEXTS, "timeout": _INT})

PROCESS: Mapping[str, Kind] = {
    "terminal": bool,
    "consoleSize": {"height": _UINT16, "width": _UINT16},
    "user": {"uid": _UINT32, "gid": _UINT32, "umask": _UINT32, "additionalGids": Many(_UINT32)},
    "args": _TEXTS,
    "env": _TEXTS,
    "cwd": str,
    "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), _TEXTS),
    "rlimits": Many({"type": str, "soft": _UINT64, "hard": _UINT64}),
    "noNewPrivileges": bool,
    "oomScoreAdj": _INT,
    "apparmorProfile": str,
    "selinuxLabel": str,
    "scheduler": {
        **{"policy": str, "nice": _INT, "priority": _INT, "flags": _TEXTS},
        **{"runtime": _UINT64, "deadline": _UINT64, "period": _UINT64},
    },
    "ioPriority": {"class": str, "priority": Number(0, 7)},
    "execCPUAffinity": {"initial": str, "final": str},
}

RESOURCES: Mapping[str, Kind] = {
    "devices": Many({"allow": bool, "type": str, "major": _INT64, "minor": _INT64, "access": str}),
    "memory": {
        **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP"), _INT64),
        **{"swappiness": _UINT64, "disableOOMKiller": bool, "useHierarchy": bool, "checkBeforeUpdate": bool},
    },
    "cpu": {
        **{"shares": _UINT64, "quota": _INT64, "burst": _UINT64, "period": _UINT64, "realtimeRuntime": _INT64, "realtimePeriod": _UINT64},
        **{"cpus": str, "mems": str, "idle": _INT64},
    },
    "pids": {"limit": _INT64},
    "blockIO": {
        **{"weight": _UINT16, "leafWeight": _UINT16},
        "weightDevice": Many({"major": _INT64, "minor": _INT64, "weight": _UINT16, "leafWeight": _UINT16}),
        **dict.fromkeys((f"throttle{way}{unit}Device" for way in ("Read", "Write") for unit in ("Bps", "IOPS")), _RATES),
    },
    "hugepageLimits": Many({"pageSize": str, "limit": _UINT64}),
    "network": {"classID": _UINT32, "priorities": Many({"name": str, "priority": _UINT32})},
    "rdma": Named({"hcaHandles": _UINT32, "hcaObjects": _UINT32}),
    "unified": Named(str),
}

CONFIG: Mapping[str, Kind] = {
    "ociVersion": str,
    "process": PROCESS,
    "root": {"path": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "mounts": Many(
        {
            **{"destination": str, "type": str, "source": str, "options": _TEXTS},
            **{"uidMappings": _MAPS, "gidMappings": _MAPS},
        }
    ),
    "hooks": dict.fromkeys(("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS),
    "annotations": Named(str),
    "linux": {
        **{"uidMappings": _MAPS, "gidMappings": _MAPS, "sysctl": Named(str), "resources": RESOURCES, "cgroupsPath": str},
        "timeOffsets": Named(_OFFSET),
        "namespaces": Many({"type": str, "path": str}),
        "devices": Many({"path": str, "type": str, "major": _INT64, "minor": _INT64, "fileMode": _UINT32, "uid": _UINT32, "gid": _UINT32}),
        "seccomp": {
            **{"defaultAction": str, "defaultErrnoRet": _UINT32, "architectures": _TEXTS, "flags": _TEXTS},
            **{"listenerPath": str, "listenerMetadata": str},
            "syscalls": Many(
                {
                    **{"names": _TEXTS, "action": str, "errnoRet": _UINT32},
                    "args": Many({"index": _UINT32, "value": _UINT64, "valueTwo": _UINT64, "op": str}),
                }
            ),
        },
        **{"rootfsPropagation": str, "maskedPaths": _TEXTS, "readonlyPaths": _TEXTS, "mountLabel": str},
        "personality": {"domain": str, "flags": _TEXTS},
    },
}


def checked(value: Any, kind: Kind, where: str = "") -> Any:
    """The value without what is null.  Raises Failure naming the field that is of another kind."""
    if isinstance(kind, Mapping):
        _expect(isinstance(value, dict), where, "an object", value)
        return {
            key: checked(one, kind[key], f"{where}.{key}" if where else key) if key in kind else one
            for key, one in value.items()
            if one is not None
        }
    if isinstance(kind, Named):
        _expect(isinstance(value, dict), where, "an object", value)
        return {key: checked(one, kind.each, f"{where}[{key}]") for key, one in value.items() if one is not None}
    if isinstance(kind, Many):
        _expect(isinstance(value, list), where, "a list", value)
        return [checked(one, kind.each, f"{where}[{index}]") for index, one in enumerate(value)]
    if isinstance(kind, Number):
        _expect(type(value) is int, where, "a whole number", value)
        _expect(kind.least <= value <= kind.most, where, f"from {kind.least} to {kind.most}", value)
    elif kind is str:
        _expect(isinstance(value, str), where, "a text", value)
    else:
        _expect(isinstance(value, bool), where, "true or false", value)
    return value


def _expect(holds: bool, where: str, wanted: str, value: object) -> None:
    if not holds:
        shown = repr(value)
        raise Failure(f"{where or 'it'} is not {wanted}: {shown if len(shown) < 80 else shown[:77] + '...'}")
