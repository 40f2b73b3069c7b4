"""Network interfaces: bridges, veth pairs and their properties.  Source: rtnetlink(7), include/uapi/linux/if_link.h.

A function makes a ``Request``; ``Netlink.ask`` sends any number of them in one call.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from wherry.netlink import message
from wherry.netlink.message import NLM_F_CREATE, NLM_F_EXCL, Message
from wherry.netlink.request import Netlink, Request

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFF_UP = 0x1
LOOPBACK_INDEX = 1  # lo is always the first interface of a namespace
NAME_MAX = 15

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD = 20, 27, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33
_IFLA_BR_STP_STATE, _IFLA_BR_FORWARD_DELAY = 5, 1
_INFO = struct.Struct("=BxHiII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface as the kernel reports it; ``kind`` is bridge, veth ... or empty for hardware."""

    index: int
    name: str
    kind: str
    alias: str
    mtu: int
    is_up: bool
    address: str
    master: int


def create_bridge(name: str, *, mtu: int = 0, address: bytes | None = None) -> Request:
    """A bridge without spanning tree, still down."""
    data = message.nest(_IFLA_INFO_DATA, message.u32(_IFLA_BR_STP_STATE, 0), message.u32(_IFLA_BR_FORWARD_DELAY, 0))
    parts = [_name(name), message.nest(_IFLA_LINKINFO, message.text(_IFLA_INFO_KIND, "bridge"), data)]
    if mtu:
        parts.append(message.u32(_IFLA_MTU, mtu))
    if address:
        parts.append(message.attribute(_IFLA_ADDRESS, address))
    return Request(RTM_NEWLINK, _header() + b"".join(parts), NLM_F_CREATE | NLM_F_EXCL, f"create bridge {name}")


def create_veth(name: str, *, master: int, mtu: int, peer_name: str, peer_address: bytes, peer_netns_fd: int) -> Request:
    """A veth pair: ``name`` here, up, a port of ``master``; its peer born in another namespace with its name and address, down.

    (The kernel opens a peer asked to be up before the pair is joined, and fails with ENOTCONN.)
    """
    peer = [_name(peer_name), message.attribute(_IFLA_ADDRESS, peer_address), message.u32(_IFLA_NET_NS_FD, peer_netns_fd)]
    mine = [_name(name), message.u32(_IFLA_MASTER, master)]
    if mtu:
        peer.append(message.u32(_IFLA_MTU, mtu))
        mine.append(message.u32(_IFLA_MTU, mtu))
    peer_link = message.attribute(_VETH_INFO_PEER, _header() + b"".join(peer))
    info = message.nest(_IFLA_LINKINFO, message.text(_IFLA_INFO_KIND, "veth"), message.nest(_IFLA_INFO_DATA, peer_link))
    return Request(RTM_NEWLINK, _header(flags=IFF_UP) + b"".join(mine) + info, NLM_F_CREATE | NLM_F_EXCL, f"create veth {name}")


def set_up(index: int = 0, *, name: str = "") -> Request:
    return Request(RTM_NEWLINK, _header(index=index, flags=IFF_UP) + (_name(name) if name else b""), 0, f"set up {name or index}")


def set_alias(name: str, alias: str) -> Request:
    """Label an interface (at most 255 bytes)."""
    return Request(RTM_NEWLINK, _header() + _name(name) + message.text(_IFLA_IFALIAS, alias), 0, f"label {name}")


def set_bridge_port(name: str, *, alias: str, hairpin: bool, isolated: bool) -> Request:
    """Label a bridge's port and set its options: ``hairpin`` lets a frame return where it came from, ``isolated`` keeps it
    from other isolated ports."""
    options = message.nest(_IFLA_INFO_SLAVE_DATA, message.u8(_IFLA_BRPORT_MODE, hairpin), message.u8(_IFLA_BRPORT_ISOLATED, isolated))
    info = message.nest(_IFLA_LINKINFO, message.text(_IFLA_INFO_SLAVE_KIND, "bridge"), options)
    return Request(RTM_NEWLINK, _header() + _name(name) + message.text(_IFLA_IFALIAS, alias) + info, 0, f"set bridge port {name}")


def rename(index: int, name: str) -> Request:
    return Request(RTM_NEWLINK, _header(index=index) + _name(name), 0, f"rename {index} to {name}")


def move(index: int, netns_fd: int) -> Request:
    """Move an interface to another network namespace."""
    return Request(RTM_NEWLINK, _header(index=index) + message.u32(_IFLA_NET_NS_FD, netns_fd), 0, f"move {index}")


def delete(name: str) -> Request:
    """Delete an interface by name: a veth takes its peer along."""
    return Request(RTM_DELLINK, _header() + _name(name), 0, f"delete {name}")


def set_group(name: str, group: int) -> Request:
    """Put an interface into a group, a number that ``delete_group`` takes."""
    return Request(RTM_NEWLINK, _header() + _name(name) + message.u32(_IFLA_GROUP, group), 0, f"set group of {name}")


def delete_group(group: int) -> Request:
    """Delete all interfaces of a group at once: the kernel waits for its readers only once, not for each."""
    return Request(RTM_DELLINK, _header() + message.u32(_IFLA_GROUP, group), 0, f"delete group {group}")


def find(netlink: Netlink, name: str) -> Link | None:
    """The interface called ``name``; None when there is none."""
    try:
        return parse(netlink.get(Request(RTM_GETLINK, _header() + _name(name), 0, f"find {name}")))
    except OSError as error:
        if error.errno == 19:  # ENODEV
            return None
        raise


def links(netlink: Netlink) -> list[Link]:
    """All interfaces of the namespace."""
    return [parse(reply) for reply in netlink.dump(every())]


def every() -> Request:
    """Dump all interfaces of the namespace."""
    return Request(RTM_GETLINK, _header(), 0, "list links")


def parse(reply: Message) -> Link:
    """An RTM_NEWLINK message as a value.  Raises ValueError for a truncated one."""
    if len(reply.payload) < _INFO.size:
        raise ValueError("netlink: truncated link")
    _, _, index, flags, _ = _INFO.unpack_from(reply.payload)
    found = message.table(reply.payload[_INFO.size :])
    info = message.table(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        kind=_text(info.get(_IFLA_INFO_KIND, b"")),
        alias=_text(found.get(_IFLA_IFALIAS, b"")),
        mtu=_number(found.get(_IFLA_MTU, b"")),
        is_up=bool(flags & IFF_UP),
        address=found.get(_IFLA_ADDRESS, b"").hex(":"),
        master=_number(found.get(_IFLA_MASTER, b"")),
    )


def _header(*, family: int = 0, index: int = 0, flags: int = 0) -> bytes:
    return _INFO.pack(family, 0, index, flags, flags)


def _name(name: str) -> bytes:
    if not 0 < len(name.encode()) <= NAME_MAX or "/" in name or "\0" in name or name in (".", "..") or any(c.isspace() for c in name):
        raise ValueError(f"invalid interface name: {name!r}")
    return message.text(_IFLA_IFNAME, name)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little") if len(value) == 4 else 0
