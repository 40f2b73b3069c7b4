"""Another machine: a network namespace on a wire to the host, with a server that answers each connection with the caller's address."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from tests.networks.machines import tell_callers

from wherry.netlink import address, link, route
from wherry.netlink.request import Netlink
from wherry.networks import namespace
from wherry.networks.namespace import Namespace


@dataclass(frozen=True, kw_only=True)
class Outside:
    """``host``: the host's address on the wire; ``own``: the other machine's, where port 80 is served."""

    host: str
    own: str
    inner: Namespace

    def dial(self, where: str, port: int, question: bytes = b"", *, timeout: float = 20) -> bytes:
        """All that a server answers to a connection from outside."""
        return namespace.inside(self.inner.fd, lambda: _dial(where, port, question, timeout))


@contextmanager
def outside() -> Iterator[Outside]:
    number = os.getpid() % 250
    host, own, name = f"198.18.{number}.254", f"198.18.{number}.1", f"wire{os.getpid()}"
    inner = namespace.create()
    with Netlink() as netlink:
        netlink.ask(link.create_bridge(name), link.set_up(name=name))
        index = socket.if_nametoindex(name)
        netlink.ask(address.add(index, IPv4Interface(f"{host}/24")))
        pair = link.create_veth(
            f"{name}p", master=index, mtu=0, peer_name="eth0", peer_address=bytes.fromhex("020000000001"), peer_netns_fd=inner.fd
        )
        netlink.ask(pair)
    made = link.find(inner.netlink, "eth0")
    assert made is not None
    inner.netlink.ask(
        link.set_up(made.index), address.add(made.index, IPv4Interface(f"{own}/24")), route.add_default(IPv4Address(host), made.index)
    )
    server = namespace.inside(inner.fd, lambda: socket.create_server((own, 80)))
    threading.Thread(target=tell_callers, args=(server, "you are {}\n"), daemon=True).start()
    try:
        yield Outside(host=host, own=own, inner=inner)
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        with Netlink() as netlink:  # before the other end goes with its namespace, in the kernel's own time
            netlink.ask(link.delete(f"{name}p"), link.delete(name))
        inner.close()


def _dial(where: str, port: int, question: bytes, timeout: float) -> bytes:
    with socket.create_connection((where, port), timeout=timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall(question)
        with connection.makefile("rb") as answer:
            return answer.read()
