"""``--network`` in its short and long form, and the flags that describe the first network's endpoint."""

from __future__ import annotations

from wherry.cli.flags import Failure
from wherry.cli.mounts import split_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.cli.flags import Invocation

NOT_USER_DEFINED = ("default", "bridge", "host", "none", "nat")
KEYS = ("name", "alias", "ip", "ip6", "link-local-ip", "mac-address", "driver-opt", "gw-priority")


def network(word: str) -> dict[str, Any]:
    """``NAME`` or ``name=NAME,alias=A,ip=I,...`` as {"name": .., "alias": [..], ..}.  Raises ValueError."""
    if "=" not in word:
        return {"name": word}
    found: dict[str, Any] = {}
    for field in split_fields(word):
        key, equals, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not equals:
            raise ValueError(f"invalid field {field}")
        if key not in KEYS:
            raise ValueError(f"invalid field key {key}")
        if key in ("alias", "link-local-ip"):
            found.setdefault(key, []).append(value)
        elif key == "driver-opt":
            name, has_value, setting = value.partition("=")
            if not has_value:
                raise ValueError("invalid key value pair format in driver options")
            found.setdefault(key, {})[name.strip().lower()] = setting.strip()
        elif key == "gw-priority":
            try:
                found[key] = int(value)
            except ValueError:
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax") from None
        else:
            found[key] = value
    if not found.get("name"):
        raise ValueError("network name/id is not specified")
    return found


def is_user_defined(name: str) -> bool:
    return name not in NOT_USER_DEFINED and not name.startswith("container:")


def endpoints(invocation: Invocation) -> tuple[str, dict[str, Any]]:
    """The network mode and the endpoints by network name.  Raises Failure."""
    chosen: Sequence[dict[str, Any]] = invocation.value("network") or ({"name": "default"},)
    if not all(item["name"] for item in chosen):
        raise Failure("no name set for network", 125)
    first = _with_flags(dict(chosen[0]), invocation)
    networks = [first, *chosen[1:]]
    kinds = {is_user_defined(item["name"]) for item in networks}
    if len(kinds) > 1:
        raise Failure("conflicting options: cannot attach both user-defined and non-user-defined network-modes", 125)
    made: dict[str, Any] = {}
    for item in networks:
        if item["name"] in made:
            raise Failure(f'network "{item["name"]}" is specified multiple times', 125)
        settings = _settings(item)
        if settings or len(networks) > 1:
            made[item["name"]] = settings
    return first["name"], made


def _with_flags(item: dict[str, Any], invocation: Invocation) -> dict[str, Any]:
    """The first network takes ``--network-alias``, ``--ip``, ``--ip6``, ``--link-local-ip``, ``--mac-address``, ``--link``."""
    for flag, key in (
        ("network-alias", "alias"),
        ("ip", "ip"),
        ("ip6", "ip6"),
        ("link-local-ip", "link-local-ip"),
        ("mac-address", "mac-address"),
    ):
        if flag not in invocation.given:
            continue
        if item.get(key):
            raise Failure(f"conflicting options: cannot specify both --{flag} and per-network {_spelled(key)}", 125)
        value = invocation.value(flag)
        item[key] = list(value) if isinstance(value, tuple) else value
    if item.get("alias") and not is_user_defined(item["name"]):
        raise Failure("network-scoped aliases are only supported for user-defined networks", 125)
    if item.get("mac-address") and not _is_mac(item["mac-address"]):
        raise Failure(f"{item['mac-address']} is not a valid mac address", 125)
    if invocation.texts("link") and is_user_defined(item["name"]):
        item["links"] = invocation.texts("link")
    return item


def _is_mac(text: str) -> bool:
    import re  # seldom needed, and slow to load

    return re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){2}", text) is not None


def _spelled(key: str) -> str:
    return {"ip": "IPv4 address", "ip6": "IPv6 address", "link-local-ip": "link-local IP addresses", "mac-address": "MAC address"}.get(
        key, key
    )


def _settings(item: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    address = {
        api: item[key] for key, api in (("ip", "IPv4Address"), ("ip6", "IPv6Address"), ("link-local-ip", "LinkLocalIPs")) if item.get(key)
    }
    if address:
        made["IPAMConfig"] = address
    for key, api in (
        ("links", "Links"),
        ("alias", "Aliases"),
        ("mac-address", "MacAddress"),
        ("driver-opt", "DriverOpts"),
        ("gw-priority", "GwPriority"),
    ):
        if item.get(key):
            made[api] = item[key]
    return made
