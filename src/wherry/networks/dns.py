"""DNS messages: questions read, answers written; no sockets.  Source: RFC 1035, RFC 6891 (EDNS)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

TYPE_A, TYPE_PTR, TYPE_AAAA, TYPE_OPT, TYPE_ANY = 1, 12, 28, 41, 255
CLASS_IN = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = range(6)
TTL_S = 600  # as Docker answers
HEADER_SIZE = 12
PLAIN_UDP_SIZE = 512

_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_POINTER_TO_QUESTION = b"\xc0\x0c"
_REVERSE_SUFFIX = ".in-addr.arpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question. ``name`` is lower case, without the final dot; ``question`` the bytes as sent, to be repeated in the answer."""

    ident: int
    flags: int
    name: str
    kind: int
    in_class: int
    question: bytes
    udp_size: int

    @property
    def is_standard(self) -> bool:
        return not self.flags & _OPCODE


def parse_query(data: bytes) -> Query:
    """Read a query.  Raises ValueError for anything that is not exactly one question."""
    if len(data) < HEADER_SIZE:
        raise ValueError("dns: truncated header")
    ident, flags, questions, answers, authorities, additional = struct.unpack_from(">6H", data)
    if flags & _QR or questions != 1 or answers or authorities:
        raise ValueError("dns: not a query with one question")
    labels, position = _labels(data, HEADER_SIZE)
    if position + 4 > len(data):
        raise ValueError("dns: truncated question")
    kind, in_class = struct.unpack_from(">2H", data, position)
    position += 4
    return Query(
        ident=ident,
        flags=flags,
        name=".".join(labels),
        kind=kind,
        in_class=in_class,
        question=data[HEADER_SIZE:position],
        udp_size=_udp_size(data, position) if additional else PLAIN_UDP_SIZE,
    )


def addresses(query: Query, found: Sequence[IPv4Address]) -> bytes:
    """An answer with A records, in the given order."""
    return _reply(query, NO_ERROR, [_record(TYPE_A, one.packed) for one in found])


def pointer(query: Query, name: str) -> bytes:
    """An answer with one PTR record."""
    return _reply(query, NO_ERROR, [_record(TYPE_PTR, encode_name(name))])


def empty(query: Query) -> bytes:
    """The name exists, but has no record of the asked kind."""
    return _reply(query, NO_ERROR, [])


def failure(query: Query, code: int) -> bytes:
    return _reply(query, code, [])


def malformed(data: bytes) -> bytes | None:
    """A format error for a packet that could not be read; None when not even its id can be, or it is an answer itself."""
    if len(data) < HEADER_SIZE:
        return None
    ident, flags = struct.unpack_from(">2H", data)
    if flags & _QR:
        return None
    return struct.pack(">6H", ident, _QR | flags & (_OPCODE | _RD) | _RA | FORMAT_ERROR, 0, 0, 0, 0)


def answers_to(query: Query, data: bytes) -> bool:
    """Whether a packet from an upstream server is the answer to ``query``: same id, same question."""
    if len(data) < HEADER_SIZE + len(query.question):
        return len(data) >= HEADER_SIZE and _header(data)[0] == query.ident and _is_reply(data) and _header(data)[2] == 0
    ident, flags, questions = _header(data)
    asked = data[HEADER_SIZE : HEADER_SIZE + len(query.question)]
    return ident == query.ident and bool(flags & _QR) and (questions == 0 or (questions == 1 and asked.lower() == query.question.lower()))


def is_truncated(data: bytes) -> bool:
    return len(data) >= HEADER_SIZE and bool(_header(data)[1] & _TC)


def fit(query: Query, data: bytes) -> bytes:
    """The answer as it may go by UDP: cut to the bare question with the truncation bit when it is too long for the client."""
    if len(data) <= query.udp_size:
        return data
    _, flags, _ = _header(data)
    return struct.pack(">6H", query.ident, flags | _TC, 1, 0, 0, 0) + query.question


def reverse_address(name: str) -> IPv4Address | None:
    """The address that an in-addr.arpa name asks for; None for other names."""
    if not name.endswith(_REVERSE_SUFFIX):
        return None
    try:
        return IPv4Address(".".join(reversed(name.removesuffix(_REVERSE_SUFFIX).split("."))))
    except ValueError:
        return None


def encode_name(name: str) -> bytes:
    """A name as labels.  Raises ValueError when it cannot be one."""
    encoded = b""
    for label in name.split("."):
        raw = label.encode()
        if not 0 < len(raw) < 64:
            raise ValueError(f"dns: invalid name {name!r}")
        encoded += bytes([len(raw)]) + raw
    if len(encoded) > 254:
        raise ValueError(f"dns: invalid name {name!r}")
    return encoded + b"\0"


def _labels(data: bytes, position: int) -> tuple[list[str], int]:
    labels: list[str] = []
    total = 0
    while True:
        if position >= len(data):
            raise ValueError("dns: truncated name")
        size = data[position]
        position += 1
        if size == 0:
            return labels, position
        total += size + 1
        if size > 63 or total > 254 or position + size > len(data):  # a pointer has no place in a question
            raise ValueError("dns: invalid name")
        labels.append(data[position : position + size].decode("utf-8", "replace").lower())
        position += size


def _udp_size(data: bytes, position: int) -> int:
    """The size an EDNS client announces; a broken additional section counts as none."""
    if data[position : position + 1] != b"\0" or position + 5 > len(data):
        return PLAIN_UDP_SIZE
    kind, size = struct.unpack_from(">2H", data, position + 1)
    return max(PLAIN_UDP_SIZE, size) if kind == TYPE_OPT else PLAIN_UDP_SIZE


def _record(kind: int, value: bytes) -> bytes:
    return _POINTER_TO_QUESTION + struct.pack(">HHIH", kind, CLASS_IN, TTL_S, len(value)) + value


def _reply(query: Query, code: int, records: Sequence[bytes]) -> bytes:
    flags = _QR | query.flags & (_OPCODE | _RD) | _RA | code
    return struct.pack(">6H", query.ident, flags, 1, len(records), 0, 0) + query.question + b"".join(records)


def _header(data: bytes) -> tuple[int, int, int]:
    ident, flags, questions = struct.unpack_from(">3H", data)
    return ident, flags, questions


def _is_reply(data: bytes) -> bool:
    return bool(_header(data)[1] & _QR)
