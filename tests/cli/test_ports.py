"""Published and exposed ports."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli import ports


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("80", [("80/tcp", "", "")]),
        ("8080:80", [("80/tcp", "", "8080")]),
        ("127.0.0.1:8080:80", [("80/tcp", "127.0.0.1", "8080")]),
        ("127.0.0.1::53/udp", [("53/udp", "127.0.0.1", "")]),
        ("[::1]:8400:55/sctp", [("55/sctp", "::1", "8400")]),
        ("9000-9001:90-91", [("90/tcp", "", "9000"), ("91/tcp", "", "9001")]),
        ("8300-8302:80", [("80/tcp", "", "8300-8302")]),
    ],
)
def test_each_form_of_publishing_is_read(word: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(port, binding["HostIp"], binding["HostPort"]) for port, binding in ports.parse_publish(word)] == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x", "invalid containerPort: x"),
        ("70000:80", "invalid hostPort: 70000"),
        ("90-91:80-82", "invalid ranges specified for container and host Ports: 80-82 and 90-91"),
        ("1.2.3:1:80", "invalid IP address: 1.2.3"),
        ("80/foo", "invalid proto: foo"),
        ("80:", "no port specified: 80:<empty>"),
    ],
)
def test_bad_forms_are_told_in_dockers_words(word: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ports.parse_publish(word)
    assert str(caught.value) == message


def test_the_long_form_is_read() -> None:
    assert ports.publish(["target=80,published=8080,protocol=udp"]) == {"80/udp": [{"HostIp": "", "HostPort": "8080"}]}


def test_expose_takes_ranges_and_no_address() -> None:
    assert ports.expose("7-9/udp") == ["7/udp", "8/udp", "9/udp"]
    with pytest.raises(ValueError, match="invalid port format for --expose: 1:2"):
        ports.expose("1:2")


def test_ports_and_ranges_are_sorted_by_number() -> None:
    assert sorted(["9000-9002/tcp", "80/tcp", "9001/udp", "53/udp"], key=ports.order) == ["53/udp", "80/tcp", "9000-9002/tcp", "9001/udp"]


def test_neighbouring_ports_are_joined_and_changed_ones_come_last() -> None:
    found = [
        {"PrivatePort": 80, "Type": "tcp", "IP": "0.0.0.0", "PublicPort": 8080},
        {"PrivatePort": 9000, "Type": "tcp", "IP": "0.0.0.0", "PublicPort": 9000},
        {"PrivatePort": 9001, "Type": "tcp", "IP": "0.0.0.0", "PublicPort": 9001},
        {"PrivatePort": 9001, "Type": "tcp", "IP": "::", "PublicPort": 9001},
        {"PrivatePort": 7777, "Type": "tcp"},
    ]
    assert ports.displayed(found) == "7777/tcp, 0.0.0.0:9000-9001->9000-9001/tcp, [::]:9001->9001/tcp, 0.0.0.0:8080->80/tcp"


@settings(max_examples=100)
@given(st.text(alphabet="0123456789:-/[]tcpud.", max_size=20))
def test_any_text_is_a_port_or_a_value_error(word: str) -> None:
    try:
        found = ports.parse_publish(word)
    except ValueError:
        return
    assert found
    assert all(0 <= int(port.partition("/")[0]) < 65536 for port, _ in found)
