"""Routes.  Source: rtnetlink(7), include/uapi/linux/rtnetlink.h."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from wherry.netlink import message
from wherry.netlink.message import NLM_F_CREATE, NLM_F_EXCL
from wherry.netlink.request import Netlink, Request

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_RT_TABLE_MAIN = 254
_RTPROT_BOOT, _RTN_UNICAST = 3, 1
_INFO = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; ``destination`` of length 0 is the default."""

    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None
    index: int


def add_default(gateway: IPv4Address | IPv6Address, index: int) -> Request:
    return Request(RTM_NEWROUTE, _default(gateway, index), NLM_F_CREATE | NLM_F_EXCL, f"add default route by {gateway}")


def remove_default(gateway: IPv4Address | IPv6Address, index: int) -> Request:
    return Request(RTM_DELROUTE, _default(gateway, index), 0, f"remove default route by {gateway}")


def routes(netlink: Netlink, family: int = socket.AF_INET, *, without: Collection[tuple[int, int]] = ()) -> list[Route]:
    """The unicast routes of the main table; ``without``: those to these networks (address, length of the prefix)."""
    found: list[Route] = []
    for reply in netlink.dump(Request(RTM_GETROUTE, _INFO.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), 0, "list routes")):
        if len(reply.payload) < _INFO.size:
            raise ValueError("netlink: truncated route")
        _, length, _, _, table, _, _, kind, _ = _INFO.unpack_from(reply.payload)
        values = message.table(reply.payload[_INFO.size :])
        if kind != _RTN_UNICAST or (struct.unpack("=I", values[_RTA_TABLE])[0] if _RTA_TABLE in values else table) != _RT_TABLE_MAIN:
            continue
        if (int.from_bytes(values.get(_RTA_DST, b""), "big"), length) in without:
            continue
        base = ip_address(values[_RTA_DST]) if _RTA_DST in values else ip_address("0.0.0.0" if family == socket.AF_INET else "::")
        gateway = ip_address(values[_RTA_GATEWAY]) if _RTA_GATEWAY in values else None
        index = struct.unpack("=I", values[_RTA_OIF])[0] if _RTA_OIF in values else 0
        found.append(Route(ip_network((base, length)), gateway, index))
    return found


def _default(gateway: IPv4Address | IPv6Address, index: int) -> bytes:
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    body = _INFO.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_UNICAST, 0)
    return body + message.attribute(_RTA_GATEWAY, gateway.packed) + message.u32(_RTA_OIF, index)
