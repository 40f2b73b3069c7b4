"""Addresses of interfaces.  Source: rtnetlink(7), include/uapi/linux/if_addr.h."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface

from wherry.netlink import message
from wherry.netlink.message import NLM_F_CREATE, NLM_F_EXCL
from wherry.netlink.request import Netlink, Request

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_INFO = struct.Struct("=BBBBi")


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its prefix length on the interface ``index``."""

    index: int
    interface: IPv4Interface | IPv6Interface


def add(index: int, interface: IPv4Interface | IPv6Interface) -> Request:
    """Give the interface an address; an IPv4 one gets its network's broadcast address."""
    return Request(RTM_NEWADDR, _body(index, interface), NLM_F_CREATE | NLM_F_EXCL, f"add address {interface}")


def remove(index: int, interface: IPv4Interface | IPv6Interface) -> Request:
    return Request(RTM_DELADDR, _body(index, interface), 0, f"remove address {interface}")


def addresses(netlink: Netlink, *, index: int = 0, without: Collection[tuple[int, int]] = ()) -> list[Address]:
    """All addresses of the namespace, or of one interface; ``without``: those in these IPv4 networks (address, length of the prefix)."""
    found: list[Address] = []
    for reply in netlink.dump(Request(RTM_GETADDR, _INFO.pack(0, 0, 0, 0, index), 0, "list addresses")):
        if len(reply.payload) < _INFO.size:
            raise ValueError("netlink: truncated address")
        _, prefix, _, _, holder = _INFO.unpack_from(reply.payload)
        values = message.table(reply.payload[_INFO.size :])
        raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if not raw or (index and holder != index):
            continue  # an old kernel tells of all interfaces
        if len(raw) != 4 or (_network(raw, prefix), prefix) not in without:
            found.append(Address(holder, ip_interface((_from_bytes(raw), prefix))))
    return found


def _network(raw: bytes, prefix: int) -> int:
    return int.from_bytes(raw, "big") >> (32 - prefix) << (32 - prefix)


def _from_bytes(raw: bytes) -> IPv4Address | IPv6Address:
    return ip_address(raw)


def _body(index: int, interface: IPv4Interface | IPv6Interface) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    raw = interface.ip.packed
    body = _INFO.pack(family, interface.network.prefixlen, 0, 0, index)
    body += message.attribute(_IFA_LOCAL, raw) + message.attribute(_IFA_ADDRESS, raw)
    if interface.version == 4 and interface.network.prefixlen < 31:
        body += message.attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    return body
