"""JSON as Go's structs would show it to a template: which maps are free-form, and what an absent field is."""

from __future__ import annotations

from typing import Any

from wherry.cli import go_methods
from wherry.cli.template_values import NIL_LIST, NIL_MAP, NIL_POINTER, Duration, Null, Record

_MAPS = frozenset((
    "Annotations", "Attributes", "AuxiliaryAddresses", "Containers", "Data", "DriverOpts", "ExposedPorts", "Labels", "Networks",
    "Options", "PortBindings", "Ports", "StorageOpt", "Sysctls", "Tmpfs", "Volumes",
))  # fmt: skip
_BY_PORT = frozenset(("ExposedPorts", "PortBindings", "Ports"))
_POINTERS = frozenset((
    "Descriptor", "Health", "Healthcheck", "IPAMConfig", "Init", "MemorySwappiness", "OomKillDisable", "PidsLimit", "StopTimeout",
    "UsageData",
))  # fmt: skip
_ABSENT: dict[str, Any] = {
    "Annotations": NIL_MAP, "Author": "", "Comment": "", "Container": "", "Descriptor": NIL_POINTER, "DockerVersion": "",
    "ExposedPorts": NIL_MAP, "Health": NIL_POINTER, "Healthcheck": NIL_POINTER, "Init": NIL_POINTER, "MacAddress": "", "Mounts": NIL_LIST,
    "ImageManifestDescriptor": NIL_POINTER, "SizeRootFs": NIL_POINTER, "SizeRw": NIL_POINTER,
    "OnBuild": NIL_LIST, "Options": NIL_MAP, "Shell": NIL_LIST, "StopSignal": "", "StopTimeout": NIL_POINTER, "StorageOpt": NIL_MAP,
    "Sysctls": NIL_MAP, "Tmpfs": NIL_MAP, "UsageData": NIL_POINTER, "Variant": "",
}  # fmt: skip
_HOST_NAMES = {
    "CPUShares": "CpuShares", "NanoCPUs": "NanoCpus", "CPUPeriod": "CpuPeriod", "CPUQuota": "CpuQuota", "CPUCount": "CpuCount",
    "CPURealtimePeriod": "CpuRealtimePeriod", "CPURealtimeRuntime": "CpuRealtimeRuntime", "CPUPercent": "CpuPercent", "DNS": "Dns",
    "DNSOptions": "DnsOptions", "DNSSearch": "DnsSearch",
}  # fmt: skip
_ABSENT_FROM: dict[str, dict[str, Any]] = {  # from a struct, or the elements of a list, of this name
    "Config": {"ArgsEscaped": False, "NetworkDisabled": False},
    "Healthcheck": {"Test": NIL_LIST, "Retries": 0, **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), Duration(0))},
    "HostConfig": {"KernelMemory": 0, "KernelMemoryTCP": 0},
    "IPAMConfig": {"IPv4Address": "", "IPv6Address": "", "LinkLocalIPs": NIL_LIST},
    "Mounts": {
        "Type": "", "Name": "", "Driver": "", "Source": "", "Target": "", "ReadOnly": False, "Consistency": "",
        **dict.fromkeys(("BindOptions", "VolumeOptions", "ImageOptions", "TmpfsOptions", "ClusterOptions"), NIL_POINTER),
    },
}  # fmt: skip
_NETWORK_ABSENT: dict[str, Any] = {"Peers": NIL_LIST, "Services": NIL_MAP}
_VOLUME_ABSENT: dict[str, Any] = {"ClusterVolume": NIL_POINTER, "CreatedAt": "", "Status": NIL_MAP}
_IMAGE = (
    "Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "DockerVersion", "Author", "Config", "Architecture", "Variant", "Os",
    "OsVersion", "Size", "VirtualSize", "GraphDriver", "RootFS", "Metadata",
)  # fmt: skip
_IMAGE_ABSENT: dict[str, Any] = {
    "Container": "",
    "ContainerConfig": NIL_POINTER,
    "Created": "",
    "Descriptor": NIL_POINTER,
    "Manifests": NIL_LIST,
    "OsVersion": "",
    "Variant": "",
    "VirtualSize": 0,
}
_IMAGE_CONFIG: dict[str, Any] = {  # in the order of Go's struct, which leaves out what is empty
    "User": "", "ExposedPorts": NIL_MAP, "Env": NIL_LIST, "Entrypoint": NIL_LIST, "Cmd": NIL_LIST, "Volumes": NIL_MAP, "WorkingDir": "",
    "Labels": NIL_MAP, "StopSignal": "", "ArgsEscaped": False, "Healthcheck": NIL_POINTER, "OnBuild": NIL_LIST, "Shell": NIL_LIST,
}  # fmt: skip


def typed(value: Any, name: str = "", parent: str = "") -> Any:
    """``value`` as Go's structs would show it: objects are Records, but for the maps whose keys are the user's."""
    if not name and isinstance(value, dict) and "RepoTags" in value and "RootFS" in value:
        return _image(value)
    if isinstance(value, dict):
        free = name in _MAPS or (name == "Config" and parent == "LogConfig")
        items = {key: typed(item, "" if free else key, name) for key, item in value.items()}
        if name in _BY_PORT:
            return {go_methods.port(key): item for key, item in items.items()}
        if name == "RestartPolicy":
            return go_methods.restart_policy(items, _ABSENT)
        if not name and not parent and "IPAM" in value and isinstance(value.get("Created"), str):
            items["Created"] = _moment(value["Created"])
        return items if free else Record(items, optional=_unwritten(value, name, parent))
    if isinstance(value, list):
        return [typed(item, "", name) for item in value]
    if parent == "Healthcheck" and isinstance(value, int) and name != "Retries":
        return Duration(value)
    if name == "LastTagTime" and isinstance(value, str):
        return _moment(value)
    if parent == "HostConfig" and isinstance(value, str):
        return go_methods.mode(name, value)
    return _null(name) if value is None else value


def _unwritten(value: dict[str, Any], name: str, parent: str) -> dict[str, Any]:
    """What a template may ask of a struct beside what its JSON shows: absent fields, and those that JSON names otherwise."""
    found = {**_ABSENT, **_ABSENT_FROM.get(name or parent, {})}
    if not name and not parent:
        found |= _NETWORK_ABSENT if "IPAM" in value else _VOLUME_ABSENT if "Mountpoint" in value else {}
        found |= {"ID": value["Id"]} if "Id" in value else {}
    elif parent == "Config":
        found |= {"Subnet": "", "Gateway": "", "IPRange": "", "AuxAddress": typed(value.get("AuxiliaryAddresses"), "AuxiliaryAddresses")}
    elif name == "HostConfig":
        found |= {go: typed(value[key], key) for go, key in _HOST_NAMES.items() if key in value}
    if "HostIp" in value:
        found["HostIP"] = value["HostIp"]
    return found


def _image(value: dict[str, Any]) -> Record:
    """What ``image inspect`` shows."""
    items = {key: typed(value[key], key) for key in dict.fromkeys([*_IMAGE, *value]) if key in value}
    config = items.get("Config")
    if isinstance(config, dict):
        items["Config"] = Record({key: config[key] for key in _IMAGE_CONFIG if config.get(key)}, optional=_IMAGE_CONFIG)
    return Record(items, optional={**_IMAGE_ABSENT, "ID": value["Id"]})


def _moment(text: str) -> str:
    from wherry.cli.go_moment import moment  # with datetime, which a container's template does not need

    return moment(text)


def _null(name: str) -> Null:
    return NIL_MAP if name in _MAPS else NIL_POINTER if name in _POINTERS else NIL_LIST
