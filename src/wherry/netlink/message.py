"""Netlink headers and attributes to and from bytes; no socket here.  Source: netlink(7), include/uapi/linux/netlink.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
HEADER_SIZE = _HEADER.size
_MAX_ATTRIBUTE = 0xFFFF
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo four


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message; ``payload`` excludes the header, ``sender`` is the port whose request it answers or tells of."""

    kind: int
    flags: int
    sequence: int
    payload: bytes
    sender: int = 0


def pack(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A whole message, padded; the port id is left to the kernel."""
    size = HEADER_SIZE + len(payload)
    return _HEADER.pack(size, kind, flags, sequence, 0) + payload + _PADDING[size & 3]


def unpack(data: bytes) -> Iterator[Message]:
    """The messages in one received datagram.  Raises ValueError for a truncated one."""
    position, end = 0, len(data)
    while position < end:
        if end - position < HEADER_SIZE:
            raise ValueError("netlink: truncated header")
        size, kind, flags, sequence, sender = _HEADER.unpack_from(data, position)
        if size < HEADER_SIZE or position + size > end:
            raise ValueError("netlink: truncated message")
        yield Message(kind, flags, sequence, data[position + HEADER_SIZE : position + size], sender)
        position += (size + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding.  Raises ValueError when the value does not fit the 16-bit length (CVE-2021-43784)."""
    size = 4 + len(value)
    if size > _MAX_ATTRIBUTE:
        raise ValueError(f"netlink: attribute {kind} of {len(value)} bytes is too long")
    return _ATTRIBUTE.pack(size, kind) + value + _PADDING[size & 3]


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string attribute, ended by NUL."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    """Host byte order, as rtnetlink has it."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """Network byte order, as nf_tables has it."""
    return attribute(kind, struct.pack(">I", value))


def be64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">Q", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind without flags, value) of each attribute in ``data``.  Raises ValueError for a truncated one."""
    position, end = 0, len(data)
    while position < end:
        if end - position < 4:
            raise ValueError("netlink: truncated attribute header")
        size, kind = _ATTRIBUTE.unpack_from(data, position)
        if size < 4 or position + size > end:
            raise ValueError("netlink: truncated attribute")
        yield kind & NLA_TYPE_MASK, data[position + 4 : position + size]
        position += (size + 3) & ~3


def table(data: bytes) -> dict[int, bytes]:
    """Attributes by kind; the last one of a kind wins."""
    return dict(attributes(data))
