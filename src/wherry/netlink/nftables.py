"""nf_tables: tables, chains, sets, rules and elements as requests for one atomic batch.  Source: include/uapi/linux/netfilter/nf_tables.h.

``Transaction`` collects requests; ``commit`` sends them as one batch, which the kernel applies wholly or not at all. Expressions
are bytes made by the functions below; a rule is a list of them. Registers are the kernel's 32-bit ones, ``REG32_00`` onwards.

Worked example, `ip daddr 127.0.0.0/8 drop` in the inet family:
``rule(t, "raw", [*is_ipv4(), load_ipv4_destination(), mask(4, "255.0.0.0"), compare(packed("127.0.0.0")), verdict(DROP)])``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from wherry.netlink import message
from wherry.netlink.message import NLM_F_APPEND, NLM_F_CREATE, Message, be32, be64, nest, text
from wherry.netlink.request import NETLINK_NETFILTER, Netlink, Request

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE = 1, 2, 7
NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING = range(5)
NF_BR_PRE_ROUTING = 0
DROP, ACCEPT = 0, 1
JUMP, RETURN = -3, -5

REG32_00 = 8
REG_1 = 1  # the first 16-byte register, as older programs name it: the same as REG32_00
CT_STATE_ESTABLISHED, CT_STATE_RELATED = 2, 4  # bits as `ct state` loads them
IPS_DST_NAT = 1 << 5  # include/uapi/linux/netfilter/nf_conntrack_common.h
RTN_LOCAL = 2

# Types of set keys as the nft program numbers them: only for its listings; a concatenation is six bits each.
TYPE_IPV4, TYPE_ETHER, TYPE_PROTOCOL, TYPE_SERVICE, TYPE_IFNAME = 7, 9, 12, 13, 41
IFNAME_SIZE = 16

_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN = 0, 1, 2, 3, 4
_DELCHAIN, _NEWRULE, _GETRULE, _DELRULE = 5, 6, 7, 8
_NEWSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 9, 12, 13, 14
_NEWGEN, _NFNLGRP_NFTABLES = 15, 7
_SET_INTERVAL, _SET_MAP = 0x4, 0x8
_ELEM_INTERVAL_END = 0x1
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO, _META_PROTOCOL = 6, 7, 15, 16, 1
_PAYLOAD_LL, _PAYLOAD_NETWORK, _PAYLOAD_TRANSPORT = 0, 1, 2
_CT_STATE, _CT_STATUS = 0, 2
_REGISTER_VERDICT = 0
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)  # user data: the key's byte order is the host's
_MAX_ELEMENTS = 500  # a message's nested attribute holds 64 KiB
_READINGS = 50  # of a set, until two agree: enlarging a table takes the kernel milliseconds
_COMMENT = 0  # the kind of user data that holds a rule's comment


@dataclass(frozen=True, slots=True)
class Table:
    """A table's family and name."""

    family: int
    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """A set's element; ``end`` (exclusive, a whole key) makes it an interval, ``value`` belongs to a map."""

    key: bytes
    value: bytes = b""
    end: bytes = b""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as the kernel lists it.  What it does is looked at when it is asked for: a chain may have hundreds of rules."""

    handle: int
    comment: str
    expressions: bytes

    @property
    def target(self) -> str:
        """The chain it jumps to, or empty."""
        verdict = self._verdict()
        return verdict.get(2, b"").rstrip(b"\0").decode(errors="replace")

    @property
    def is_bare_return(self) -> bool:
        """Whether it ends the chain for every packet."""
        return int.from_bytes(self._verdict().get(1, b""), "big", signed=True) == RETURN and not self._names() - {b"immediate", b"counter"}

    def _names(self) -> set[bytes]:
        return {message.table(member).get(1, b"").rstrip(b"\0") for _, member in message.attributes(self.expressions)}

    def _verdict(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for _, member in message.attributes(self.expressions):
            expression = message.table(member)
            if expression.get(1, b"").rstrip(b"\0") == b"immediate":
                found = message.table(message.table(message.table(expression[2]).get(2, b"")).get(2, b""))
        return found


@dataclass(slots=True)
class Transaction:
    """Requests applied together by ``commit``."""

    requests: list[Request] = field(default_factory=list)

    def add_table(self, table: Table) -> None:
        """Make the table; an existing one is success."""
        self._add(table, _NEWTABLE, text(1, table.name), NLM_F_CREATE, f"add table {table.name}")

    def delete_table(self, table: Table) -> None:
        self._add(table, _DELTABLE, text(1, table.name), 0, f"delete table {table.name}")

    def add_chain(self, table: Table, name: str, *, kind: str, hook: int, priority: int, policy: int = ACCEPT) -> None:
        """A base chain; ``kind`` filter or nat."""
        hooked = nest(4, be32(1, hook), be32(2, priority & 0xFFFFFFFF))
        body = text(1, table.name) + text(3, name) + hooked + be32(5, policy) + text(7, kind)
        self._add(table, _NEWCHAIN, body, NLM_F_CREATE, f"add chain {name}")

    def add_plain_chain(self, table: Table, name: str) -> None:
        """A chain that only rules lead to."""
        self._add(table, _NEWCHAIN, text(1, table.name) + text(3, name), NLM_F_CREATE, f"add chain {name}")

    def delete_chain(self, table: Table, name: str) -> None:
        """A chain without rules that no rule leads to."""
        self._add(table, _DELCHAIN, text(1, table.name) + text(3, name), 0, f"delete chain {name}")

    def add_set(
        self, table: Table, name: str, key: Sequence[tuple[int, int]], *, value: Sequence[tuple[int, int]] = (), interval: bool = False
    ) -> None:
        """A set, or a map when ``value`` is given: both are (type, size) of each concatenated field."""
        flags = (_SET_INTERVAL if interval else 0) | (_SET_MAP if value else 0)
        body = text(1, table.name) + text(2, name) + be32(3, flags) + be32(4, _concatenated_type(key)) + be32(5, _concatenated_size(key))
        if value:
            body += be32(6, _concatenated_type(value)) + be32(7, _concatenated_size(value))
        if len(key) == 1 and key[0][0] == TYPE_IFNAME:
            body += message.attribute(13, _HOST_ORDER)  # for the nft program's listings
        body += be32(10, len(self.requests) + 1)  # an id within the batch, so that its rules may refer to it
        self._add(table, _NEWSET, body, NLM_F_CREATE, f"add set {name}")

    def add_rule(self, table: Table, chain: str, expressions: Iterable[bytes], *, comment: str = "", before: int = 0) -> None:
        """At the chain's end, or before the rule with handle ``before``. The nft and iptables programs list the comment."""
        body = text(1, table.name) + text(2, chain) + nest(4, *(nest(1, one) for one in expressions))
        if before:
            body += be64(6, before)
        if comment:
            words = comment.encode() + b"\0"
            body += message.attribute(7, bytes([_COMMENT, len(words)]) + words)
        self._add(table, _NEWRULE, body, NLM_F_CREATE | (0 if before else NLM_F_APPEND), f"add rule to {chain}")

    def delete_rule(self, table: Table, chain: str, handle: int) -> None:
        """An absent rule fails the whole transaction (ENOENT)."""
        self._add(table, _DELRULE, text(1, table.name) + text(2, chain) + be64(3, handle), 0, f"delete rule of {chain}")

    def add_elements(self, table: Table, name: str, elements: Sequence[Element]) -> None:
        self._elements(_NEWSETELEM, NLM_F_CREATE, table, name, elements)

    def delete_elements(self, table: Table, name: str, elements: Sequence[Element]) -> None:
        """An absent element fails the whole transaction (ENOENT)."""
        self._elements(_DELSETELEM, 0, table, name, elements)

    def commit(self, netlink: Netlink) -> None:
        """Apply everything, or raise OSError and change nothing."""
        if self.requests:
            netlink.batch(_edge(_BATCH_BEGIN), self.requests, _edge(_BATCH_END))

    def _elements(self, kind: int, flags: int, table: Table, name: str, elements: Sequence[Element]) -> None:
        for start in range(0, len(elements), _MAX_ELEMENTS):
            members = b"".join(_element(one) for one in elements[start : start + _MAX_ELEMENTS])
            body = text(1, table.name) + text(2, name) + nest(3, members)
            self._add(table, kind, body, flags, f"{'add to' if kind == _NEWSETELEM else 'delete from'} set {name}")

    def _add(self, table: Table, kind: int, body: bytes, flags: int, what: str) -> None:
        self.requests.append(Request(_SUBSYSTEM | kind, _family(table.family) + body, flags, what))


def connect() -> Netlink:
    """A socket for nf_tables.  Raises OSError (EPROTONOSUPPORT) where the kernel has no nfnetlink."""
    return Netlink(NETLINK_NETFILTER)


def subscribe() -> Netlink:
    """A socket whose ``notices`` tell of every change to the namespace's tables."""
    return Netlink(NETLINK_NETFILTER, groups=1 << (_NFNLGRP_NFTABLES - 1))


def table_name(notice: Message) -> str:
    """The table that a notice is about; empty for one about none."""
    if notice.kind >> 8 != _SUBSYSTEM >> 8 or notice.kind & 0xFF == _NEWGEN or len(notice.payload) < 4:
        return ""
    return message.table(notice.payload[4:]).get(1, b"").rstrip(b"\0").decode(errors="replace")


def chain_lost_rules(notice: Message, table: Table, chain: str) -> bool:
    """Whether the notice tells that the chain was made or went, or that a rule of it did."""
    if table_name(notice) != table.name or notice.payload[0] != table.family:
        return False
    kind = notice.kind & 0xFF
    if kind not in (_NEWCHAIN, _DELCHAIN, _DELRULE):
        return False
    return message.table(notice.payload[4:]).get(2 if kind == _DELRULE else 3, b"") == chain.encode() + b"\0"


def tables(netlink: Netlink) -> list[Table]:
    """All tables of the network namespace."""
    replies = netlink.dump(Request(_SUBSYSTEM | _GETTABLE, _family(0), 0, "list tables"))
    return [Table(one.payload[0], message.table(one.payload[4:])[1].rstrip(b"\0").decode()) for one in replies]


def dropping_forward_chains(netlink: Netlink) -> list[tuple[Table, str]]:
    """Base chains on the forward hook of IPv4 whose policy is drop: without their consent nothing is forwarded."""
    found: list[tuple[Table, str]] = []
    for reply in netlink.dump(Request(_SUBSYSTEM | _GETCHAIN, _family(0), 0, "list chains")):
        values = message.table(reply.payload[4:])
        hook = message.table(values.get(4, b"")).get(1, b"")
        drops = int.from_bytes(values.get(5, b"\xff"), "big") == DROP
        if reply.payload[0] in (NFPROTO_INET, NFPROTO_IPV4) and hook and int.from_bytes(hook, "big") == NF_INET_FORWARD and drops:
            name = values[3].rstrip(b"\0").decode(errors="replace")
            found.append((Table(reply.payload[0], table_name(reply)), name))
    return found


def rules(netlink: Netlink, table: Table, chain: str) -> list[Rule] | None:
    """A chain's rules in order; None where there is no such chain."""
    body = _family(table.family) + text(1, table.name)
    try:
        netlink.get(Request(_SUBSYSTEM | _GETCHAIN, body + text(3, chain), 0, f"find chain {chain}"))
        replies = netlink.dump(Request(_SUBSYSTEM | _GETRULE, body + text(2, chain), 0, f"list chain {chain}"))
    except FileNotFoundError:
        return None
    return [_rule(message.table(one.payload[4:])) for one in replies]


def elements(netlink: Netlink, table: Table, name: str) -> list[bytes]:
    """The keys of a set's elements, in the kernel's order; ends of intervals are left out.

    A set is a hash table that the kernel enlarges behind the call that filled it, and a list made meanwhile lacks some elements and has
    others twice, without a mark: so it is read until two readings agree.  Raises OSError (EAGAIN) for a set that never stands still.
    """
    found = _listed_elements(netlink, table, name)
    for _ in range(_READINGS):
        before, found = found, _listed_elements(netlink, table, name)
        if before == found:
            return found
    raise BlockingIOError(errno.EAGAIN, f"netlink: list set {name}: it changes all the time")


def _listed_elements(netlink: Netlink, table: Table, name: str) -> list[bytes]:
    body = _family(table.family) + text(1, table.name) + text(2, name)
    found: list[bytes] = []
    for reply in netlink.dump(Request(_SUBSYSTEM | _GETSETELEM, body, 0, f"list set {name}")):
        for _, member in message.attributes(message.table(reply.payload[4:]).get(3, b"")):
            values = message.table(member)
            flags = int.from_bytes(values.get(3, b""), "big")
            if not flags & _ELEM_INTERVAL_END:
                found.append(message.table(values[1])[1])
    return found


def field_bytes(*values: bytes) -> bytes:
    """Concatenate fields as registers hold them: each padded to four bytes."""
    return b"".join(value + bytes(-len(value) % 4) for value in values)


def ifname(name: str) -> bytes:
    """An interface's name as a set's key."""
    return name.encode().ljust(IFNAME_SIZE, b"\0")


def meta_iifname(register: int = REG32_00) -> bytes:
    return _expression("meta", be32(2, _META_IIFNAME), be32(1, register))


def meta_oifname(register: int = REG32_00) -> bytes:
    return _expression("meta", be32(2, _META_OIFNAME), be32(1, register))


def meta_l4proto(register: int = REG32_00) -> bytes:
    return _expression("meta", be32(2, _META_L4PROTO), be32(1, register))


def is_ipv4() -> list[bytes]:
    """Match IPv4 packets in the inet family."""
    return [_expression("meta", be32(2, _META_NFPROTO), be32(1, REG32_00)), compare(struct.pack("B", socket.AF_INET))]


def is_ethertype(ethertype: int) -> list[bytes]:
    """Match a frame's protocol in the bridge family."""
    return [_expression("meta", be32(2, _META_PROTOCOL), be32(1, REG32_00)), compare(struct.pack(">H", ethertype))]


def payload(base: int, offset: int, size: int, register: int = REG32_00) -> bytes:
    return _expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, size))


def ether_source(register: int = REG32_00) -> bytes:
    return payload(_PAYLOAD_LL, 6, 6, register)


def ipv4_source(register: int = REG32_00) -> bytes:
    return payload(_PAYLOAD_NETWORK, 12, 4, register)


def ipv4_destination(register: int = REG32_00) -> bytes:
    return payload(_PAYLOAD_NETWORK, 16, 4, register)


def arp_source_ipv4(register: int = REG32_00) -> bytes:
    """The sender's protocol address of an ARP packet for Ethernet and IPv4."""
    return payload(_PAYLOAD_NETWORK, 14, 4, register)


def destination_port(register: int = REG32_00) -> bytes:
    return payload(_PAYLOAD_TRANSPORT, 2, 2, register)


def mask(value: bytes, register: int = REG32_00) -> bytes:
    """Keep only the bits of ``value`` in the register."""
    zero = nest(5, message.attribute(1, bytes(len(value))))
    return _expression("bitwise", be32(1, register), be32(2, register), be32(3, len(value)), nest(4, message.attribute(1, value)), zero)


def compare(value: bytes, register: int = REG32_00, *, equal: bool = True) -> bytes:
    return _expression("cmp", be32(1, register), be32(2, 0 if equal else 1), nest(3, message.attribute(1, value)))


def immediate(value: bytes, register: int) -> bytes:
    """Put a constant into a register."""
    return _expression("immediate", be32(1, register), nest(2, message.attribute(1, value)))


def lookup(name: str, register: int = REG32_00, *, inverted: bool = False, result: int | None = None) -> bytes:
    """Go on when the register is (or, inverted, is not) in the set; with ``result`` a map's value lands there."""
    parts = [text(1, name), be32(2, register)]
    if result is not None:
        parts.append(be32(3, result))
    if inverted:
        parts.append(be32(5, 1))
    return _expression("lookup", *parts)


def ct_has_state(states: int) -> list[bytes]:
    """Match when the connection's state is one of the bits."""
    return _bits(_expression("ct", be32(2, _CT_STATE), be32(1, REG32_00)), states)


def ct_has_status(status: int) -> list[bytes]:
    """Match when the connection has one of the IPS_ bits."""
    return _bits(_expression("ct", be32(2, _CT_STATUS), be32(1, REG32_00)), status)


def destination_is_local() -> list[bytes]:
    """Match a destination address of this machine (`fib daddr type local`)."""
    return [_expression("fib", be32(1, REG32_00), be32(2, 3), be32(3, 1 << 1)), compare(struct.pack("=I", RTN_LOCAL))]


def dnat_ipv4(address_register: int, port_register: int) -> bytes:
    """Send the connection to the address and port in the registers."""
    return _expression("nat", be32(1, 1), be32(2, NFPROTO_IPV4), be32(3, address_register), be32(5, port_register))


def masquerade() -> bytes:
    return _expression("masq")


def counter() -> bytes:
    """Count packets and bytes, as the iptables program has it in every rule."""
    return _expression("counter", be64(1, 0), be64(2, 0))


def verdict(code: int, chain: str = "") -> bytes:
    """End with ACCEPT, DROP or RETURN, or go on by JUMP to ``chain``."""
    parts = [be32(1, code & 0xFFFFFFFF)] + ([text(2, chain)] if chain else [])
    return _expression("immediate", be32(1, _REGISTER_VERDICT), nest(2, nest(2, *parts)))


def _bits(load: bytes, bits: int) -> list[bytes]:
    wanted = struct.pack("=I", bits)
    return [load, mask(wanted), compare(bytes(4), equal=False)]


def _expression(name: str, *attributes: bytes) -> bytes:
    return text(1, name) + nest(2, *attributes)


def _rule(values: dict[int, bytes]) -> Rule:
    comment = ""
    with suppress(ValueError):  # another program's user data may have any form
        user = values.get(7, b"")
        comment = user[2 : 2 + user[1]].rstrip(b"\0").decode() if len(user) > 2 and user[0] == _COMMENT else ""
    return Rule(int.from_bytes(values.get(3, b""), "big"), comment, values.get(4, b""))


def _element(element: Element) -> bytes:
    parts = [nest(1, message.attribute(1, element.key))]
    if element.value:
        parts.append(nest(2, message.attribute(1, element.value)))
    made = nest(1, *parts)
    if element.end:
        made += nest(1, nest(1, message.attribute(1, element.end)), be32(3, _ELEM_INTERVAL_END))
    return made


def _concatenated_type(fields: Sequence[tuple[int, int]]) -> int:
    number = 0
    for kind, _ in fields:
        number = number << 6 | kind
    return number


def _concatenated_size(fields: Sequence[tuple[int, int]]) -> int:
    if len(fields) == 1:
        return fields[0][1]
    return sum((size + 3) & ~3 for _, size in fields)


def _family(family: int) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def _edge(kind: int) -> Request:
    return Request(kind, struct.pack(">BBH", 0, 0, 10), 0)
