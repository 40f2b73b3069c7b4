"""A container asks its resolver inside its namespace; upstream servers are threads with real sockets."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from wherry.networks import dns, namespace
from wherry.networks.names import Directory, Member, View
from wherry.networks.resolver import BURST, RATE_HZ, Resolver
from wherry.networks.sandbox import Sandbox, SandboxRequest
from wherry.networks.service import Networks
from wherry.spec.docker.network import EndpointSettings, NetworkCreate
from wherry.spec.settings import Settings
from wherry.store.records import Records

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_host")]


def question(name: str, kind: int = dns.TYPE_A) -> bytes:
    return struct.pack(">6H", 77, 0x0100, 1, 0, 0, 0) + dns.encode_name(name) + struct.pack(">2H", kind, 1)


def ask_udp(packet: bytes, address: tuple[str, int]) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(packet, address)
        return client.recv(65535)


def ask_tcp(packet: bytes, address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(struct.pack(">H", len(packet)) + packet)
        stream = client.makefile("rb")
        with stream:
            return stream.read(int.from_bytes(stream.read(2), "big"))


def code(reply: bytes) -> int:
    return int.from_bytes(reply[2:4], "big") & 15


def last_address(reply: bytes) -> str:
    return str(IPv4Address(reply[-4:]))


class Upstream:
    """A server that answers every question with 192.0.2.1; with ``lies`` first with a foreign id."""

    def __init__(self, *, lies: bool = False, long: bool = False) -> None:
        self.lies, self.long = lies, long
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.port: int = self.udp.getsockname()[1]
        self.tcp = socket.create_server(("127.0.0.1", self.port))
        self.asked = 0
        self.threads = [threading.Thread(target=self.serve_udp), threading.Thread(target=self.serve_tcp)]
        for thread in self.threads:
            thread.start()

    def answer(self, packet: bytes) -> bytes:
        self.asked += 1
        return dns.addresses(dns.parse_query(packet), [IPv4Address("192.0.2.1")] * (80 if self.long else 1))

    def serve_udp(self) -> None:
        while True:
            packet, sender = self.udp.recvfrom(65535)
            if packet == b"end":
                return
            reply = self.answer(packet)
            if self.lies:
                self.udp.sendto(struct.pack(">H", 1) + reply[2:], sender)
            self.udp.sendto(reply, sender)

    def serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                packet = connection.recv(65535)[2:]
                reply = self.answer(packet)
                framed = struct.pack(">H", len(reply)) + reply
                connection.sendall(framed[:5])
                connection.sendall(framed[5:])

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"end", ("127.0.0.1", self.port))
        self.tcp.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.tcp.close()
        self.udp.close()


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    server = Upstream(**getattr(request, "param", {}))
    yield server
    server.close()


@pytest.fixture
def served(upstream: Upstream) -> Iterator[tuple[Directory, tuple[str, int]]]:
    """A resolver whose container has the view of the test; its address."""
    directory = Directory()
    resolver = Resolver(directory, upstream_port=upstream.port)
    resolver.start()
    udp, tcp = namespace.resolver_sockets("127.0.0.11")
    resolver.serve("c", udp, tcp)
    yield directory, ("127.0.0.11", 53)
    resolver.close()


@pytest.mark.parametrize("ask", [ask_udp, ask_tcp])
def test_unknown_names_are_asked_upstream_by_the_same_protocol(served: tuple[Directory, tuple[str, int]], upstream: Upstream, ask) -> None:
    directory, address = served
    directory.show("c", View(networks=("n",), upstream=("127.0.0.1",)))
    assert last_address(ask(question("example.org"), address)) == "192.0.2.1"
    assert upstream.asked == 1


@pytest.mark.parametrize("upstream", [{"lies": True}], indirect=True)
def test_forged_answer_is_passed_over(served: tuple[Directory, tuple[str, int]]) -> None:
    directory, address = served
    directory.show("c", View(networks=("n",), upstream=("127.0.0.1",)))
    reply = ask_udp(question("example.org"), address)
    assert reply[:2] == question("x")[:2]


@pytest.mark.parametrize("upstream", [{"long": True}], indirect=True)
def test_long_upstream_answer_is_cut_for_udp_and_whole_by_tcp(served: tuple[Directory, tuple[str, int]]) -> None:
    directory, address = served
    directory.show("c", View(networks=("n",), upstream=("127.0.0.1",)))
    assert dns.is_truncated(ask_udp(question("example.org"), address))
    assert len(ask_tcp(question("example.org"), address)) > 1000


def test_silent_server_is_followed_by_the_next_one(served: tuple[Directory, tuple[str, int]]) -> None:
    directory, address = served
    directory.show("c", View(networks=("n",), upstream=("127.0.0.99", "127.0.0.1")))  # nobody listens: refused at once
    assert last_address(ask_udp(question("example.org"), address)) == "192.0.2.1"
    directory.show("c", View(networks=("n",), upstream=("127.0.0.99",)))
    assert code(ask_udp(question("example.org"), address)) == dns.SERVER_FAILURE


def test_internal_only_container_asks_nobody(served: tuple[Directory, tuple[str, int]], upstream: Upstream) -> None:
    directory, address = served
    directory.show("c", View(networks=("n",)))
    assert code(ask_udp(question("example.org"), address)) == dns.REFUSED
    assert upstream.asked == 0


def test_garbage_does_not_stop_the_answers(served: tuple[Directory, tuple[str, int]]) -> None:
    directory, address = served
    directory.show("c", View(networks=("n",)))
    directory.join("n", Member(container_id="d", network="net", names=("db",), address=IPv4Address("10.0.0.2")))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for packet in (b"", b"x", bytes(12), b"\xff" * 600):
            client.sendto(packet, address)
    assert last_address(ask_udp(question("db"), address)) == "10.0.0.2"
    with socket.create_connection(address, timeout=20) as half:
        half.sendall(b"\x00")
        assert last_address(ask_tcp(question("db.net"), address)) == "10.0.0.2"


@pytest.fixture
def two() -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """Where two containers ask, which both know the name ``db``."""
    directory = Directory()
    resolver = Resolver(directory)
    resolver.start()
    directory.join("n", Member(container_id="x", network="net", names=("db",), address=IPv4Address("10.0.0.2")))
    places = []
    for ident in ("c", "d"):
        directory.show(ident, View(networks=("n",)))
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 0))
        places.append(tcp.getsockname())
        udp.bind(places[-1])
        udp.setblocking(False)
        tcp.setblocking(False)
        resolver.serve(ident, udp, tcp)
    yield places[0], places[1]
    resolver.close()


def test_who_floods_is_answered_as_much_as_any_may_ask_and_the_others_at_once(two: tuple[tuple[str, int], tuple[str, int]]) -> None:
    flooded, other = two
    packet, answers, waits = question("db"), 0, []
    begun = asked = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(flooded)
        client.setblocking(False)
        while (now := time.monotonic()) < begun + 3:
            for send in [True] * 50 + [False] * 100:
                with suppress(BlockingIOError):
                    if send:
                        client.send(packet)
                    else:
                        client.recv(1000)
                        answers += 1
            if now > asked + 0.1:
                assert last_address(ask_udp(packet, other)) == "10.0.0.2"
                asked = time.monotonic()
                waits.append(asked - now)
    elapsed = time.monotonic() - begun
    assert RATE_HZ < answers < BURST + RATE_HZ * (elapsed + 0.5)  # without a limit ten times as many
    assert sorted(waits)[len(waits) // 2] < 0.05
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        for _ in range(50):  # what finds the queue full is lost: then any client asks again
            client.sendto(packet, flooded)
            with suppress(TimeoutError):
                assert last_address(client.recv(1000)) == "10.0.0.2"
                break
        else:
            pytest.fail("it is never answered again")


def test_no_question_of_a_connection_is_lost_when_there_are_more_than_may_be(two: tuple[tuple[str, int], tuple[str, int]]) -> None:
    packet = question("db")
    rounds, each = (BURST + RATE_HZ) // 500, 500
    begun = time.monotonic()
    with socket.create_connection(two[0], timeout=20) as client, client.makefile("rb") as stream:
        for _ in range(rounds):
            client.sendall((struct.pack(">H", len(packet)) + packet) * each)
            for _ in range(each):
                assert last_address(stream.read(int.from_bytes(stream.read(2), "big"))) == "10.0.0.2"
        assert time.monotonic() - begun > 0.9
        assert last_address(ask_tcp(packet, two[1])) == "10.0.0.2"
        assert last_address(ask_tcp(packet, two[0])) == "10.0.0.2"


def ask_from(sandbox: Sandbox, name: str, kind: int = dns.TYPE_A) -> bytes:
    assert sandbox.netns_fd is not None
    return namespace.inside(sandbox.netns_fd, lambda: ask_udp(question(name, kind), ("127.0.0.11", 53)))


def test_containers_of_a_network_know_each_other(networks: Networks) -> None:
    networks.create(NetworkCreate(name="n1"))
    wish = EndpointSettings(aliases=["al"])
    first = networks.attach(SandboxRequest(container_id="a" * 64, name="aa", mode="n1", networks={"n1": wish}))
    second = networks.attach(SandboxRequest(container_id="b" * 64, name="bb", mode="n1", networks={"n1": wish}))
    address = first.endpoints["n1"].ip_address
    for name in ("aa", "aa.n1", "a" * 12):
        assert last_address(ask_from(second, name)) == address
    reply = ask_from(second, "al")
    assert int.from_bytes(reply[6:8], "big") == 2
    assert code(ask_from(second, "aa", dns.TYPE_AAAA)) == dns.NO_ERROR
    assert int.from_bytes(ask_from(second, "aa", dns.TYPE_AAAA)[6:8], "big") == 0
    backwards = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert ask_from(second, backwards, dns.TYPE_PTR).endswith(b"\x02aa\x02n1\x00")
    networks.release(first.container_id)
    assert code(ask_from(second, "aa")) in (dns.SERVER_FAILURE, dns.REFUSED)
    networks.rename(second.container_id, "cc")
    assert last_address(ask_from(second, "cc")) == second.endpoints["n1"].ip_address
    networks.release(second.container_id)


def test_container_may_run_a_dns_server_of_its_own(networks: Networks) -> None:
    networks.create(NetworkCreate(name="n1"))
    sandbox = networks.attach(SandboxRequest(container_id="a" * 64, name="aa", mode="n1"))
    assert sandbox.netns_fd is not None

    def serve() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", 53))
        return udp, socket.create_server(("0.0.0.0", 53))

    udp, tcp = namespace.inside(sandbox.netns_fd, serve)
    with udp, tcp:
        assert last_address(ask_from(sandbox, "aa")) == sandbox.endpoints["n1"].ip_address
        framed = namespace.inside(sandbox.netns_fd, lambda: ask_tcp(question("aa"), ("127.0.0.11", 53)))
        assert last_address(framed) == sandbox.endpoints["n1"].ip_address
    networks.release(sandbox.container_id)


def test_names_come_back_when_a_restarted_daemon_adopts(networks: Networks, settings: Settings, records: Records) -> None:
    networks.create(NetworkCreate(name="n1"))
    before = networks.attach(SandboxRequest(container_id="b" * 64, name="bb"))
    networks.connect(before.container_id, "n1")  # names are served from here on
    address = before.endpoints["n1"].ip_address
    assert last_address(ask_from(before, "bb")) == address
    assert before.netns_fd is not None
    with namespace.inside(before.netns_fd, lambda: subprocess.Popen(["sleep", "60"])) as process:
        networks.close()
        successor = Networks(settings, records)
        successor.start([before.container_id])
        after = successor.adopt(before.container_id, os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        assert after.internal_resolver
        assert last_address(ask_from(after, "bb")) == address
        process.kill()
    successor.release(before.container_id)
    successor.settle()
    successor.close()
