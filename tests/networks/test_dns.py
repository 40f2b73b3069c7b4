from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.networks import dns

LABEL = st.text("abcxyzABC019-_", min_size=1, max_size=20)


def question(name: str, kind: int = dns.TYPE_A, *, ident: int = 7, edns: int = 0) -> bytes:
    tail = b"\0" + struct.pack(">HHIH", dns.TYPE_OPT, edns, 0, 0) if edns else b""
    return struct.pack(">6H", ident, 0x0100, 1, 0, 0, bool(edns)) + dns.encode_name(name) + struct.pack(">2H", kind, 1) + tail


@settings(max_examples=100)
@given(st.lists(LABEL, min_size=1, max_size=6), st.integers(0, 65535))
def test_question_is_read_and_repeated_as_it_was_sent(labels: list[str], ident: int) -> None:
    name = ".".join(labels)
    packet = question(name, ident=ident)
    query = dns.parse_query(packet)
    assert (query.name, query.ident, query.kind) == (name.lower(), ident, dns.TYPE_A)
    reply = dns.addresses(query, [IPv4Address("10.0.0.1")])
    assert reply[12 : 12 + len(query.question)] == packet[12:]  # case as sent
    assert dns.answers_to(query, reply)


@settings(max_examples=100)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        dns.parse_query(data)
    reply = dns.malformed(data)
    assert reply is None or (len(reply) == 12 and reply[:2] == data[:2])
    query = dns.parse_query(question("a"))
    dns.answers_to(query, data)
    dns.is_truncated(data)


def test_answer_is_the_recorded_bytes() -> None:
    reply = dns.addresses(dns.parse_query(question("db")), [IPv4Address("172.18.0.2"), IPv4Address("172.18.0.3")])
    assert reply.hex() == (
        "000781800001000200000000"
        + "02646200"
        + "00010001"
        + "c00c000100010000025800"
        + "04ac120002"
        + "c00c000100010000025800"
        + "04ac120003"
    )


def test_pointer_and_empty_answers() -> None:
    query = dns.parse_query(question("2.0.18.172.in-addr.arpa", dns.TYPE_PTR))
    assert dns.reverse_address(query.name) == IPv4Address("172.18.0.2")
    assert dns.pointer(query, "aa.n1").endswith(b"\x00\x07\x02aa\x02n1\x00")
    assert struct.unpack_from(">6H", dns.empty(query))[1:4] == (0x8180, 1, 0)
    assert struct.unpack_from(">6H", dns.failure(query, dns.REFUSED))[1] & 15 == dns.REFUSED


@pytest.mark.parametrize("name", ["x.in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.4.ip6.arpa", "300.1.1.1.in-addr.arpa"])
def test_other_names_are_no_reverse_address(name: str) -> None:
    assert dns.reverse_address(name) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack(">6H", 1, 0x8000, 1, 0, 0, 0) + b"\1a\0\0\1\0\1",  # an answer
        struct.pack(">6H", 1, 0, 2, 0, 0, 0) + b"\1a\0\0\1\0\1" * 2,
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # a name that points at itself
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x3fabc",
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",  # too long
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\1a\0\0\1",
    ],
)
def test_broken_questions_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="dns"):
        dns.parse_query(data)


def test_long_answer_is_cut_unless_the_client_takes_more() -> None:
    many = [IPv4Address(0x0A000000 + number) for number in range(60)]
    query = dns.parse_query(question("db"))
    cut = dns.fit(query, dns.addresses(query, many))
    assert len(cut) < 512
    assert dns.is_truncated(cut)
    large = dns.parse_query(question("db", edns=4096))
    assert not dns.is_truncated(dns.fit(large, dns.addresses(large, many)))


def test_answer_to_another_question_is_not_believed() -> None:
    query = dns.parse_query(question("db"))
    assert not dns.answers_to(query, dns.empty(dns.parse_query(question("dc"))))
    assert not dns.answers_to(query, dns.empty(dns.parse_query(question("db", ident=8))))
    assert not dns.answers_to(query, question("db"))
    assert dns.answers_to(query, dns.empty(dns.parse_query(question("DB"))))
