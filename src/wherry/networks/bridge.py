"""Linux bridges, and the veth pairs that connect namespaces to them."""

from __future__ import annotations

import errno
import ipaddress
import logging
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from wherry.netlink import address, link, route
from wherry.netlink.request import Netlink
from wherry.networks.namespace import Namespace, write_setting
from wherry.networks.record import LABEL, EndpointRecord, NetworkRecord

log = logging.getLogger(__name__)
_AT_ONCE = 16  # interfaces deleted together: the kernel may take 20 ms for a bridge, and configures nothing else meanwhile


def forward_packets() -> None:
    """See that the kernel passes packets on between its interfaces."""
    path = "/proc/sys/net/ipv4/ip_forward"
    try:
        with open(path) as source:
            if source.read().strip() == "1":
                return
        with open(path, "w") as target:
            target.write("1")
        log.info("IPv4 forwarding switched on")
    except OSError as error:
        log.warning("IPv4 forwarding is off and cannot be switched on (%s): containers reach only this machine", error)


def random_mac() -> bytes:
    """A unicast, locally administered hardware address."""
    raw = bytearray(secrets.token_bytes(6))
    raw[0] = raw[0] & 0xFE | 0x02
    return bytes(raw)


def mac_of(address: str) -> bytes:
    """The hardware address that goes with an IPv4 address.

    Not a random one: the next container with the address would not be reached until everybody's ARP caches noticed, seconds later.
    """
    return b"\x02\x42" + IPv4Address(address).packed


def ensure(netlink: Netlink, network: NetworkRecord, tag: str) -> None:
    """Make the network's bridge, or see that ours is as it should be.

    Raises FileExistsError for an interface of that name that is not ours.
    """
    found = link.find(netlink, network.bridge)
    if found is not None and found.alias != network.label(tag):
        raise FileExistsError(f"interface {network.bridge} exists and belongs to somebody else")
    with ExitStack() as undo:
        if found is None:
            netlink.ask(link.create_bridge(network.bridge, mtu=network.mtu, address=random_mac()))
            undo.callback(remove, netlink, network.bridge)
            netlink.ask(link.set_alias(network.bridge, network.label(tag)))
        _configure(netlink, network)
        undo.pop_all()


def remove(netlink: Netlink, name: str) -> None:
    """Delete an interface of ours; an absent one is success."""
    with _absence_is_success():
        netlink.ask(link.delete(name))


def remove_by_name(name: str) -> None:
    """`remove` over a socket of its own."""
    with Netlink() as host:
        remove(host, name)


def remove_all(netlink: Netlink, names: Sequence[str]) -> None:
    """Delete interfaces of ours together; absent ones are success."""
    for start in range(0, len(names), _AT_ONCE):
        group = secrets.randbits(30) | 1 << 30  # nobody else's
        for name in names[start : start + _AT_ONCE]:
            with _absence_is_success():
                netlink.ask(link.set_group(name, group))
        with _absence_is_success():
            netlink.ask(link.delete_group(group))


def leftovers(netlink: Netlink, tag: str, *, networks: Iterable[str], containers: Iterable[str]) -> list[str]:
    """Names of interfaces that this daemon made and that no network or running container accounts for."""
    known = {f"{LABEL}:{tag}:network:{one}" for one in networks} | {f"{LABEL}:{tag}:container:{one}" for one in containers}
    return [one.name for one in link.links(netlink) if one.alias.startswith(f"{LABEL}:{tag}:") and one.alias not in known]


def host_networks(netlink: Netlink, *, without: Iterable[str] = (), known: Iterable[IPv4Network] = ()) -> list[IPv4Network]:
    """The subnets that the host's addresses and routes use, but for the default route.

    ``without``: names of our own bridges; ``known``: subnets that need not be told again, which with many networks saves most of the work.
    """
    names = set(without)
    indexes = {index for index, name in socket.if_nameindex() if name in names}
    told = {(int(one.network_address), one.prefixlen) for one in known}
    found = [one.interface.network for one in address.addresses(netlink, without=told) if one.index not in indexes]
    found += [one.destination for one in route.routes(netlink, without=told) if one.index not in indexes and one.destination.prefixlen]
    return [one for one in found if isinstance(one, IPv4Network)]


def plug(host: Netlink, inner: Namespace, endpoint: EndpointRecord, *, network: NetworkRecord, label: str, default_route: bool) -> None:
    """Connect a namespace to the network's bridge.  Raises OSError; what was made then is gone again."""
    master = socket.if_nametoindex(network.bridge)
    pair = link.create_veth(
        endpoint.port,
        master=master,
        mtu=network.mtu,
        peer_name=endpoint.interface,
        peer_address=bytes.fromhex(endpoint.mac.replace(":", "")),
        peer_netns_fd=inner.fd,
    )
    with ExitStack() as undo:
        host.ask(pair, link.set_bridge_port(endpoint.port, alias=label, hairpin=True, isolated=network.isolated))
        undo.callback(remove, host, endpoint.port)
        made = link.find(inner.netlink, endpoint.interface)
        if made is None:
            raise FileNotFoundError(f"interface {endpoint.interface} vanished")
        requests = [link.set_up(made.index), address.add(made.index, IPv4Interface(f"{endpoint.address}/{endpoint.prefix}"))]
        if default_route:
            requests.append(route.add_default(IPv4Address(endpoint.gateway), made.index))
        inner.netlink.ask(*requests)
        # Asking for a link makes the kernel (6.8 on) act on its carrier at once; until it did, the port forwards nothing, and what a bridge
        # or an interface sends is lost: TCP tries again after a second. A bridge has a carrier when a port of it has.
        for name in (endpoint.port, network.bridge):
            link.find(host, name)
        link.find(inner.netlink, endpoint.interface)
        undo.pop_all()


def move_default_route(inner: Namespace, old: EndpointRecord | None, new: EndpointRecord | None) -> None:
    """Let another interface of the namespace lead outside; the old one may be gone already."""
    if old is not None:
        found = link.find(inner.netlink, old.interface)
        if found is not None:
            with suppress(ProcessLookupError):  # ESRCH: no such route
                inner.netlink.ask(route.remove_default(IPv4Address(old.gateway), found.index))
    if new is not None:
        found = link.find(inner.netlink, new.interface)
        if found is not None:
            inner.netlink.ask(route.add_default(IPv4Address(new.gateway), found.index))


@contextmanager
def _absence_is_success() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _configure(netlink: Netlink, network: NetworkRecord) -> None:
    for setting, value in (
        (f"ipv6/conf/{network.bridge}/disable_ipv6", "1"),
        (f"ipv6/conf/{network.bridge}/accept_ra", "0"),  # CVE-2020-13401
        (f"ipv4/conf/{network.bridge}/route_localnet", "1"),  # 127.0.0.1:PORT reaches the container; the raw chain keeps containers out
    ):
        write_setting(setting, value)
    index = socket.if_nametoindex(network.bridge)
    wanted = ipaddress.IPv4Interface(f"{network.gateway}/{IPv4Network(network.subnet).prefixlen}")
    present = [one.interface for one in address.addresses(netlink, index=index) if isinstance(one.interface, IPv4Interface)]
    stale = [address.remove(index, one) for one in present if one != wanted]
    missing = [] if wanted in present else [address.add(index, wanted)]
    netlink.ask(*stale, link.set_up(index), *missing)
