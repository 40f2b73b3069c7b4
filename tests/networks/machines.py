"""Containers and other machines, played by namespaces with listening threads."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from wherry.netlink import address, link, route
from wherry.netlink.request import Netlink
from wherry.networks import namespace
from wherry.networks.sandbox import Sandbox, SandboxRequest
from wherry.networks.service import Networks

_servers: list[tuple[socket.socket, threading.Thread]] = []


def stop_servers() -> None:
    """End what ``listen`` began; when this returns, none of it is open any more."""
    while _servers:
        server, thread = _servers.pop()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()


def request(number: int, **wishes: Any) -> SandboxRequest:
    return SandboxRequest(container_id=f"{number:064x}", name=f"c{number}", **wishes)


def listen(sandbox: Sandbox, port: int = 80, host: str = "0.0.0.0") -> None:
    """A server in the sandbox that answers each connection with the caller's address, until the test ends."""
    assert sandbox.netns_fd is not None
    server = namespace.inside(sandbox.netns_fd, lambda: socket.create_server((host, port)))
    thread = threading.Thread(target=tell_callers, args=(server, "{}"), daemon=True)
    thread.start()
    _servers.append((server, thread))


def tell_callers(server: socket.socket, text: str) -> None:
    """Answer each connection with the caller's address in ``text``, until the server is shut down."""
    with server:
        while True:
            try:
                connection, caller = server.accept()
            except OSError:
                return
            with connection, suppress(ConnectionError):  # one that has given up
                connection.sendall(text.format(caller[0]).encode())


def dial(host: str, port: int, timeout: float = 20) -> str:
    with socket.create_connection((host, port), timeout=timeout) as connection:
        return connection.recv(100).decode()


def dial_from(sandbox: Sandbox, host: str, port: int, timeout: float = 20) -> str:
    assert sandbox.netns_fd is not None
    return namespace.inside(sandbox.netns_fd, lambda: dial(host, port, timeout))


def ip(sandbox: Sandbox, network: str = "bridge") -> str:
    return sandbox.endpoints[network].ip_address


def outside(networks: Networks, ip_address: str = "198.51.100.1") -> Sandbox:
    """Another machine: a namespace on a wire to the host, whose default route leads to the host (198.51.100.254)."""
    far = namespace.create()
    with Netlink() as host:
        host.ask(
            link.create_bridge("wire"),
            link.set_up(name="wire"),
        )
        index = socket.if_nametoindex("wire")
        host.ask(address.add(index, _interface("198.51.100.254/24")))
        host.ask(
            link.create_veth(
                "wire-port", master=index, mtu=0, peer_name="eth0", peer_address=bytes.fromhex("020000000001"), peer_netns_fd=far.fd
            )
        )
    made = link.find(far.netlink, "eth0")
    assert made is not None
    gateway = _interface("198.51.100.254/24").ip
    far.netlink.ask(
        link.set_up(made.index), address.add(made.index, _interface(f"{ip_address}/24")), route.add_default(gateway, made.index)
    )
    sandbox = networks.attach(request(900, mode="none"))
    assert sandbox.namespace is not None
    sandbox.namespace.close()
    sandbox.namespace = far
    return sandbox


def unplug(networks: Networks, far: Sandbox) -> None:
    with Netlink() as host:  # before the other end goes with its namespace, in the kernel's own time
        host.ask(link.delete("wire-port"), link.delete("wire"))
    networks.release(far.container_id)


def _interface(text: str) -> address.IPv4Interface:
    return address.IPv4Interface(text)
