from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import Internal, InvalidRequest, NotSupported
from wherry.networks.ports import Binding, Held, Ports, exposed, parse_bindings, parse_port
from wherry.spec.docker.container import PortBinding

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_host")]


class Owner:
    """Publishes, and closes at the end."""

    def __init__(self) -> None:
        self.ports = Ports()
        self.held: list[Held] = []

    def publish(self, *bindings: Binding, default_ip: str = "") -> list[tuple[str, int]]:
        found = self.ports.publish(bindings, container_ip="172.17.0.2", default_ip=default_ip)
        self.held += found
        return [(one.publication.host_ip, one.publication.host_port) for one in found]

    def drop(self) -> None:
        self.ports.release([one.publication for one in self.held])
        for one in self.held:
            one.holder.close()
        self.held.clear()


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.drop()


def binding(first: int = 0, last: int = 0, host_ip: str = "", protocol: str = "tcp") -> Binding:
    return Binding(port=80, protocol=protocol, host_ip=host_ip, first=first, last=last or first)


def test_binding_without_address_is_published_in_both_families(owner: Owner) -> None:
    assert owner.publish(binding(8080)) == [("0.0.0.0", 8080), ("::", 8080)]


def test_random_ports_count_upwards_even_after_they_were_freed(owner: Owner) -> None:
    assert owner.publish(binding())[0][1] == 32768
    assert owner.publish(binding())[0][1] == 32769
    owner.drop()
    assert owner.publish(binding())[0][1] == 32770
    assert owner.publish(binding(protocol="udp"))[0][1] == 32768


def test_random_port_skips_one_that_another_program_has(owner: Owner) -> None:
    with socket.create_server(("0.0.0.0", 32768)):
        assert {port for _, port in owner.publish(binding())} == {32769}


def test_first_free_port_of_a_range_is_taken(owner: Owner) -> None:
    assert [owner.publish(binding(8300, 8302))[0][1] for _ in range(3)] == [8300, 8301, 8302]
    with pytest.raises(Internal, match=r"^Bind for 0\.0\.0\.0:8302 failed: port is already allocated$"):
        owner.publish(binding(8300, 8302))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("", "", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
        ("127.0.0.1", "", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
        ("", "127.0.0.1", "Bind for 127.0.0.1:8080 failed: port is already allocated"),
        ("::", "", "Bind for :::8080 failed: port is already allocated"),
        ("::1", "::1", "Bind for [::1]:8080 failed: port is already allocated"),
        ("127.0.0.1", "127.0.0.2", ""),
        ("0.0.0.0", "::", ""),
    ],
)
def test_conflicts_are_judged_by_address(owner: Owner, first: str, second: str, message: str) -> None:
    owner.publish(binding(8080, host_ip=first))
    if not message:
        assert owner.publish(binding(8080, host_ip=second))
        return
    with pytest.raises(Internal) as caught:
        owner.publish(binding(8080, host_ip=second))
    assert str(caught.value) == message


def test_same_port_of_the_other_protocol_is_free(owner: Owner) -> None:
    assert owner.publish(binding(8080), binding(8080, protocol="udp"))


def test_failure_gives_back_what_the_same_call_had_taken(owner: Owner) -> None:
    with socket.create_server(("0.0.0.0", 8081)), pytest.raises(Internal, match="address already in use"):
        owner.publish(binding(8080), binding(8081))
    assert owner.publish(binding(8080))


def test_default_address_is_used_where_none_is_named(owner: Owner) -> None:
    assert owner.publish(binding(8080), default_ip="127.0.0.1") == [("127.0.0.1", 8080)]


def test_address_that_the_host_lacks_is_named(owner: Owner) -> None:
    with pytest.raises(Internal) as caught:
        owner.publish(binding(8080, host_ip="192.0.2.7"))
    assert str(caught.value) == "failed to bind host port for 192.0.2.7:8080:172.17.0.2:80/tcp: cannot assign requested address"


def test_port_map_is_read_in_order() -> None:
    wishes = {
        "443/tcp": [PortBinding(host_port="8443")],
        "80": [PortBinding(host_ip="127.0.0.1", host_port="8000-8010"), PortBinding()],
        "53/udp": None,
    }
    assert parse_bindings(wishes) == [
        Binding(port=80, protocol="tcp", host_ip="127.0.0.1", first=8000, last=8010),
        Binding(port=80, protocol="tcp"),
        Binding(port=443, protocol="tcp", first=8443, last=8443),
        Binding(port=53, protocol="udp"),
    ]


@pytest.mark.parametrize(
    ("key", "place", "message"),
    [
        ("abc", PortBinding(), "invalid containerPort: abc"),
        ("0/tcp", PortBinding(), "invalid containerPort: 0"),
        ("65536/tcp", PortBinding(), "invalid containerPort: 65536"),
        ("80/icmp", PortBinding(), "invalid proto: icmp"),
        ("80/tcp", PortBinding(host_port="70000"), "invalid hostPort: 70000"),
        ("80/tcp", PortBinding(host_port="9-8"), "invalid hostPort: 9-8"),
        ("80/tcp", PortBinding(host_ip="x"), "invalid IP address: x"),
    ],
)
def test_bad_port_map_is_refused(key: str, place: PortBinding, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_bindings({key: [place]})
    assert str(caught.value) == message


@settings(max_examples=100)
@given(st.text(max_size=12))
def test_any_text_is_a_port_or_refused(text: str) -> None:
    try:
        port, protocol = parse_port(text)
    except InvalidRequest:
        return
    assert 0 < port <= 65535
    assert protocol in ("tcp", "udp", "sctp")


def test_sctp_port_is_held_by_a_socket_or_refused(owner: Owner) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        for first in (8080, 0):  # a random port is not tried again and again
            with pytest.raises(Internal, match=r"failed to listen on 0\.0\.0\.0:[0-9]+: protocol not supported"):
                owner.publish(binding(first, protocol="sctp"))
    else:
        assert owner.publish(binding(8080, protocol="sctp")) == [("0.0.0.0", 8080)]


def test_sctp_is_not_promised_on_ipv6(owner: Owner) -> None:
    with pytest.raises(NotSupported, match="port 80/sctp cannot be published on an IPv6 address"):
        owner.publish(binding(8080, host_ip="::1", protocol="sctp"))


def test_random_port_on_an_address_of_another_machine_is_refused_at_once(owner: Owner) -> None:
    with pytest.raises(Internal, match=r"for 1\.2\.3\.4:32768:172\.17\.0\.2:80/tcp: cannot assign requested address"):
        owner.publish(binding(host_ip="1.2.3.4"))


def test_exposed_ranges_are_single_ports() -> None:
    assert exposed(["9000-9002/udp", "80", "9001/udp"]) == [(80, "tcp"), (9000, "udp"), (9001, "udp"), (9002, "udp")]
