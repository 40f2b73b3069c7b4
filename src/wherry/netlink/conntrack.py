"""Connection tracking: forget the flows of an address whose container is gone.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from wherry.netlink import message
from wherry.netlink.message import Message, nest
from wherry.netlink.request import NETLINK_NETFILTER, Netlink, Request

_SUBSYSTEM = 1 << 8
_GET, _DELETE = 1, 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY = 1, 2
_CTA_TUPLE_IP, _CTA_IP_V4_SRC = 1, 1
_HEADER = struct.pack(">BBH", 2, 0, 0)  # AF_INET


def forget(address: IPv4Address) -> int:
    """Delete the flows in which ``address`` answers or asks; returns how many. A UDP client would otherwise go on talking to nobody."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        flows = netlink.dump(Request(_SUBSYSTEM | _GET, _HEADER, 0, "list flows"))
        doomed = [flow for flow in flows if address.packed in (_source(flow, _CTA_TUPLE_ORIG), _source(flow, _CTA_TUPLE_REPLY))]
        gone = 0
        for flow in doomed:
            original = message.table(flow.payload[4:])[_CTA_TUPLE_ORIG]
            try:
                netlink.ask(Request(_SUBSYSTEM | _DELETE, _HEADER + nest(_CTA_TUPLE_ORIG, original), 0, "forget flow"))
                gone += 1
            except FileNotFoundError:
                continue  # it ended by itself
        return gone


def _source(flow: Message, direction: int) -> bytes:
    tuples = message.table(flow.payload[4:]).get(direction, b"")
    return message.table(message.table(tuples).get(_CTA_TUPLE_IP, b"")).get(_CTA_IP_V4_SRC, b"")
