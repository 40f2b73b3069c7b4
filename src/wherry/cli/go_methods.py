"""The methods that Docker's Go types have, for templates such as ``{{.HostConfig.NetworkMode.IsHost}}``.  Source: moby api/types 28."""

from __future__ import annotations

from typing import Any

from wherry.cli.template_values import Named, Record

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Methods = Mapping[str, Callable[..., Any]]


def _network_mode(mode: str) -> Methods:
    known = mode in ("default", "bridge", "host", "none")
    joined, _, other = mode.partition(":")
    joins = joined == "container" and ":" in mode
    return {
        "IsNone": lambda: mode == "none",
        "IsDefault": lambda: mode == "default",
        "IsBridge": lambda: mode == "bridge",
        "IsHost": lambda: mode == "host",
        "IsPrivate": lambda: mode != "host" and not joins,
        "IsContainer": lambda: joins,
        "IsUserDefined": lambda: not known and not joins,
        "NetworkName": lambda: "container" if joins else mode,
        "UserDefined": lambda: "" if known or joins else mode,
        "ConnectedContainer": lambda: other if joins else "",
    }


def _shared(mode: str, *valid: str) -> dict[str, Callable[..., Any]]:
    """What the modes of the other namespaces have in common."""
    kind, _, other = mode.partition(":")
    joins = kind == "container" and ":" in mode
    return {
        "IsHost": lambda: mode == "host",
        "IsPrivate": lambda: mode != "host" and not joins,
        "IsContainer": lambda: joins,
        "Container": lambda: other if joins else "",
        "Valid": lambda: mode in valid or (joins and bool(other)),
    }


def _ipc_mode(mode: str) -> Methods:
    return {
        **_shared(mode, "", "none", "private", "host", "shareable"),
        "IsPrivate": lambda: mode == "private",
        "IsShareable": lambda: mode == "shareable",
        "IsNone": lambda: mode == "none",
        "IsEmpty": lambda: mode == "",
    }


def _only(methods: Methods, *names: str) -> Methods:
    return {name: methods[name] for name in names}


def _cgroupns_mode(mode: str) -> Methods:
    return {
        "IsPrivate": lambda: mode == "private",
        "IsHost": lambda: mode == "host",
        "IsEmpty": lambda: mode == "",
        "Valid": lambda: mode in ("", "private", "host"),
    }


def _isolation(kind: str) -> Methods:
    lower = kind.lower()
    return {
        "IsDefault": lambda: lower in ("", "default"),
        "IsHyperV": lambda: lower == "hyperv",
        "IsProcess": lambda: lower == "process",
    }


_MODES: dict[str, tuple[str, Callable[[str], Methods]]] = {
    "NetworkMode": ("container.NetworkMode", _network_mode),
    "IpcMode": ("container.IpcMode", _ipc_mode),
    "PidMode": ("container.PidMode", lambda mode: _shared(mode, "", "host")),
    "UTSMode": ("container.UTSMode", lambda mode: _only(_shared(mode, "", "host"), "IsHost", "IsPrivate", "Valid")),
    "UsernsMode": ("container.UsernsMode", lambda mode: _only(_shared(mode, "", "host"), "IsHost", "IsPrivate", "Valid")),
    "CgroupnsMode": ("container.CgroupnsMode", _cgroupns_mode),
    "Cgroup": ("container.CgroupSpec", lambda mode: _only(_shared(mode, ""), "IsContainer", "Container", "Valid")),
    "Isolation": ("container.Isolation", _isolation),
}


def mode(name: str, text: str) -> str:
    """The field ``name`` of a HostConfig."""
    if name not in _MODES:
        return text
    go_type, methods = _MODES[name]
    return Named(text, go_type, methods(text))


def port(text: str) -> str:
    """A key such as ``80/tcp``."""
    number, _, protocol = text.partition("/")
    methods: Methods = {
        "Port": lambda: number,
        "Proto": lambda: protocol or "tcp",
        "Int": lambda: int(number) if number.isdecimal() else 0,
    }
    return Named(text, "nat.Port", methods)


def restart_policy(values: Mapping[str, Any], optional: Mapping[str, Any]) -> Record:
    name = values.get("Name", "")
    methods: Methods = {
        "IsNone": lambda: name in ("", "no"),
        "IsAlways": lambda: name == "always",
        "IsOnFailure": lambda: name == "on-failure",
        "IsUnlessStopped": lambda: name == "unless-stopped",
        "IsSame": lambda other: dict(values) == other,
    }
    return Record(values, methods=methods, optional=optional)
