"""A container's network namespace: made, prepared and entered by threads that do nothing else, or return at once."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self, TypeVar

from wherry.kernel import netns
from wherry.netlink import link, nftables
from wherry.netlink.nftables import Table, Transaction
from wherry.netlink.request import Netlink

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_RESOLVER_TABLE = Table(nftables.NFPROTO_IPV4, "resolver")

# As Docker: an unprivileged program may listen on port 80 and send echo requests. No IPv6 on what is added later (CVE-2024-32473);
# lo keeps ::1.
_SETTINGS = (
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace by descriptor, with a netlink socket inside it. ``close`` closes both."""

    fd: int
    netlink: Netlink

    def close(self) -> None:
        self.netlink.close()
        os.close(self.fd)


def create() -> Namespace:
    """A new namespace with ``lo`` up and Docker's settings.  Raises OSError."""
    return _in_thread(_create)


class Maker:
    """Makes one namespace after the other in a thread that is in the host's network in between, where this is made; for a ``with``."""

    def __init__(self) -> None:
        self._home_fd = netns.current_network()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        os.close(self._home_fd)

    def create(self) -> Namespace:
        """As the function.  Raises OSError; RuntimeError where the thread cannot return, which must not go on then."""
        try:
            return _create()
        finally:
            try:
                netns.enter_network(self._home_fd)
            except OSError as error:
                raise RuntimeError("a thread is lost in a container's network") from error


def enter(fd: int) -> Namespace:
    """An existing namespace with a netlink socket; takes over ``fd``."""
    return Namespace(fd, inside(fd, Netlink))


def inside(fd: int, action: Callable[[], Result]) -> Result:
    """The result of ``action`` in the namespace; its exception is raised here."""

    def entered() -> Result:
        netns.enter_network(fd)
        return action()

    return _in_thread(entered)


def resolver_sockets(address: str) -> tuple[socket.socket, socket.socket]:
    """UDP and listening TCP sockets that answer at port 53 of ``address``; call it ``inside``.

    They are bound to other ports and port 53 is translated, so that the container's own DNS server may have 0.0.0.0:53. Without
    nf_tables they are bound to port 53 itself.
    """
    try:
        return _translated(address)
    except OSError as error:
        log.debug("no translation for the resolver: %s", error)
        return _bound(address, 53)


def _translated(address: str) -> tuple[socket.socket, socket.socket]:
    udp, tcp = _bound(address, 0)
    with ExitStack() as undo:
        undo.callback(udp.close)
        undo.callback(tcp.close)
        netlink = undo.enter_context(nftables.connect())
        work = Transaction()
        if _RESOLVER_TABLE in nftables.tables(netlink):
            work.delete_table(_RESOLVER_TABLE)  # an earlier daemon's; a deletion makes the socket's close wait long
        work.add_table(_RESOLVER_TABLE)
        work.add_chain(_RESOLVER_TABLE, "output", kind="nat", hook=nftables.NF_INET_LOCAL_OUT, priority=-100)
        for protocol, bound in ((socket.IPPROTO_UDP, udp), (socket.IPPROTO_TCP, tcp)):
            work.add_rule(_RESOLVER_TABLE, "output", _translation(address, protocol, bound.getsockname()[1]))
        work.commit(netlink)
        netlink.close()
        undo.pop_all()
    return udp, tcp


def _translation(address: str, protocol: int, port: int) -> list[bytes]:
    raw, register = IPv4Address(address).packed, nftables.REG32_00
    return [
        nftables.ipv4_destination(),
        nftables.compare(raw),
        nftables.meta_l4proto(),
        nftables.compare(bytes([protocol])),
        nftables.destination_port(),
        nftables.compare((53).to_bytes(2, "big")),
        nftables.immediate(raw, register),
        nftables.immediate(port.to_bytes(2, "big"), register + 1),
        nftables.dnat_ipv4(register, register + 1),
    ]


def _bound(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    with ExitStack() as undo:
        udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        udp.bind((address, port))
        tcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((address, port))
        tcp.listen(64)
        udp.setblocking(False)
        tcp.setblocking(False)
        undo.pop_all()
    return udp, tcp


def _create() -> Namespace:
    netns.unshare_network()
    with ExitStack() as undo:
        fd = netns.current_network()
        undo.callback(os.close, fd)
        inner = Netlink()
        undo.callback(inner.close)
        for path, value in _SETTINGS:
            write_setting(path, value)
        inner.ask(link.set_up(link.LOOPBACK_INDEX))
        undo.pop_all()
    return Namespace(fd, inner)


def write_setting(path: str, value: str) -> None:
    """Write ``/proc/sys/net/<path>`` of the calling thread's namespace; a kernel without it is told in the log."""
    try:
        fd = os.open(f"/proc/sys/net/{path}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        log.debug("network setting %s: %s", path, error.strerror)
        return
    try:
        os.write(fd, value.encode())
    except OSError as error:
        log.warning("network setting %s=%s: %s", path, value, error.strerror)
    finally:
        os.close(fd)


def _in_thread(action: Callable[[], Result]) -> Result:
    results: list[Result] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
