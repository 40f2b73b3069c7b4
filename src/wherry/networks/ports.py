"""Published ports: parse what is asked, find host ports, and hold them by listening sockets.

Terms: a *binding* is one wish (`80/tcp` at host ip and port range); a *publication* is one address and port of the host taken for it.
A binding without a host address is published on 0.0.0.0 and [::], both with the same port.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from wherry.errors import Internal, InvalidRequest, NotSupported
from wherry.spec.docker.container import PortBinding

PortMap = dict[str, list[PortBinding] | None]  # "80/tcp" -> places on the host

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
ANY_IPV4, ANY_IPV6 = "0.0.0.0", "::"
_FALLBACK_RANGE = (49153, 65535)
_BACKLOG = 512
_PORT_RANGE_PATH = "/proc/sys/net/ipv4/ip_local_port_range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A container's port to publish. ``host_ip`` empty: everywhere; ``first`` 0: any port; else the first free of ``first`` to ``last``."""

    port: int
    protocol: str
    host_ip: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A host address and port that leads to a container's port."""

    protocol: str
    port: int
    host_ip: str
    host_port: int

    @property
    def key(self) -> str:
        """Docker's ``80/tcp``."""
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A publication with the socket that holds its port."""

    publication: Publication
    holder: socket.socket


class _Busy(Internal):
    """This port is taken; another may be free."""


@dataclass(slots=True)
class Ports:
    """The host ports in use by this daemon's containers; safe to use from several threads."""

    _taken: dict[tuple[str, int], set[str]] = field(default_factory=dict)  # (protocol, port) -> host addresses
    _next: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, bindings: Sequence[Binding], *, container_ip: str, default_ip: str = "") -> list[Held]:
        """Take host ports for all bindings, or none.  Raises Internal in Docker's words; the caller closes the sockets."""
        with self._lock, ExitStack() as undo:
            held: list[Held] = []
            for binding in bindings:
                taken = self._publish_one(binding, container_ip, default_ip)
                undo.callback(self._give_back, taken)
                held += taken
            undo.pop_all()
            return held

    def restore(self, publications: Iterable[Publication]) -> None:
        """Note ports that a running container holds since before this daemon."""
        with self._lock:
            for one in publications:
                self._taken.setdefault((one.protocol, one.host_port), set()).add(one.host_ip)

    def release(self, publications: Iterable[Publication]) -> None:
        """Forget ports; the sockets are their holder's to close. Unknown ones are success."""
        with self._lock:
            for one in publications:
                self._forget(one)

    def _publish_one(self, binding: Binding, container_ip: str, default_ip: str) -> list[Held]:
        addresses = host_addresses(binding.host_ip or default_ip)
        if binding.protocol == "sctp":  # forwarded by the kernel alone, and that to IPv4
            if addresses[0] != ANY_IPV4 and ":" in addresses[0]:
                raise NotSupported(f"port {binding.port}/sctp cannot be published on an IPv6 address")
            addresses = addresses[:1]
        if binding.first:
            return self._first_of(binding, addresses, container_ip)
        return self._next_free(binding, addresses, container_ip)

    def _first_of(self, binding: Binding, addresses: Sequence[str], container_ip: str) -> list[Held]:
        last = max(binding.first, binding.last)
        for port in range(binding.first, last + 1):
            try:
                return self._take(binding, addresses, port, container_ip)
            except _Busy:
                if port == last:
                    raise
        raise AssertionError("an empty range was refused when it was parsed")

    def _next_free(self, binding: Binding, addresses: Sequence[str], container_ip: str) -> list[Held]:
        low, high = _ephemeral_range()
        port = self._next.get(binding.protocol, low)
        for _ in range(high - low + 1):
            if not low <= port <= high:
                port = low
            self._next[binding.protocol] = port + 1
            try:
                return self._take(binding, addresses, port, container_ip)
            except _Busy:
                port += 1
        raise Internal("all ports are allocated")

    def _take(self, binding: Binding, addresses: Sequence[str], port: int, container_ip: str) -> list[Held]:
        taken: list[Held] = []
        with ExitStack() as undo:
            undo.callback(self._give_back, taken)
            for address in addresses:
                if self._is_taken(binding.protocol, port, address):
                    raise _Busy(f"Bind for {_joined(address, port)} failed: port is already allocated")
                holder = _listen(binding, address, port, container_ip)
                if holder is None:
                    continue  # no IPv6 on this host
                publication = Publication(protocol=binding.protocol, port=binding.port, host_ip=address, host_port=port)
                self._taken.setdefault((binding.protocol, port), set()).add(address)
                taken.append(Held(publication=publication, holder=holder))
            undo.pop_all()
        return taken

    def _is_taken(self, protocol: str, port: int, address: str) -> bool:
        others = self._taken.get((protocol, port))
        if not others:
            return False
        wildcard = ANY_IPV6 if ":" in address else ANY_IPV4
        same_family = {one for one in others if (":" in one) == (":" in address)}
        return bool(same_family) and (address == wildcard or wildcard in same_family or address in same_family)

    def _give_back(self, held: Sequence[Held]) -> None:
        for one in held:
            self._forget(one.publication)
            one.holder.close()

    def _forget(self, one: Publication) -> None:
        addresses = self._taken.get((one.protocol, one.host_port), set())
        addresses.discard(one.host_ip)
        if not addresses:
            self._taken.pop((one.protocol, one.host_port), None)


def host_addresses(host_ip: str) -> list[str]:
    """Where a binding listens.  Raises InvalidRequest for what is no address."""
    if not host_ip:
        return [ANY_IPV4, ANY_IPV6]
    try:
        return [str(ipaddress.ip_address(host_ip.strip("[]")))]
    except ValueError:
        raise InvalidRequest(f"invalid IP address: {host_ip}") from None


def parse_bindings(wishes: PortMap) -> list[Binding]:
    """HostConfig.PortBindings (`{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`) as bindings, in order of protocol and port.

    A port without places is published on any host port.

    Raises InvalidRequest.  Source: Engine API ContainerCreate, PortMap.
    """
    found: list[Binding] = []
    for key, places in wishes.items():
        port, protocol = parse_port(key)
        for place in places or (PortBinding(),):
            first, last = _parse_host_port(place.host_port)
            host_addresses(place.host_ip)
            found.append(Binding(port=port, protocol=protocol, host_ip=place.host_ip, first=first, last=last))
    return sorted(found, key=lambda one: (one.protocol, one.port))


def parse_port(key: str) -> tuple[int, str]:
    """``80/tcp`` or ``80`` as port and protocol.  Raises InvalidRequest."""
    number, _, protocol = key.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise InvalidRequest(f"invalid proto: {protocol}")
    if not re.fullmatch(r"[0-9]{1,5}", number) or not 0 < int(number) <= 65535:
        raise InvalidRequest(f"invalid containerPort: {number}")
    return int(number), protocol


def exposed(keys: Iterable[str]) -> list[tuple[int, str]]:
    """ExposedPorts (``80/tcp``, ``9000-9002/udp``) as ports and protocols, in order.  Raises InvalidRequest."""
    found = set()
    for key in keys:
        numbers, slash, protocol = key.partition("/")
        first, _, last = numbers.partition("-")
        low, kind = parse_port(first + slash + protocol)
        high, _ = parse_port(last or first)
        found |= {(port, kind) for port in range(low, high + 1)}
    return sorted(found)


def _parse_host_port(value: str) -> tuple[int, int]:
    if not value:
        return 0, 0
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", value)
    if match is None:
        raise InvalidRequest(f"invalid hostPort: {value}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last > 65535 or first > last:
        raise InvalidRequest(f"invalid hostPort: {value}")
    return first, last


def _listen(binding: Binding, address: str, port: int, container_ip: str) -> socket.socket | None:
    """Bind the port, so that no other program takes it; None where the host has no such family."""
    kind = socket.SOCK_DGRAM if binding.protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        holder = socket.socket(family, kind | socket.SOCK_CLOEXEC, PROTOCOLS[binding.protocol])
    except OSError as error:
        if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
            return None
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):  # a kernel without SCTP
            raise Internal(
                f"error starting userland proxy: failed to listen on {_joined(address, port)}: protocol not supported"
            ) from error
        raise
    with ExitStack() as undo:
        undo.callback(holder.close)
        try:
            if kind == socket.SOCK_STREAM:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            holder.bind((address, port))
            if kind == socket.SOCK_STREAM:
                holder.listen(_BACKLOG)
        except OSError as error:
            if address == ANY_IPV6 and error.errno == errno.EADDRNOTAVAIL:
                return None
            reason = {errno.EADDRINUSE: "address already in use", errno.EADDRNOTAVAIL: "cannot assign requested address"}
            target = f"{container_ip}:{binding.port}/{binding.protocol}"
            text = reason.get(error.errno or 0, (error.strerror or str(error)).lower())
            kind_of_failure = _Busy if error.errno == errno.EADDRINUSE else Internal
            raise kind_of_failure(f"failed to bind host port for {_joined(address, port)}:{target}: {text}") from error
        holder.setblocking(False)
        undo.pop_all()
    return holder


def _joined(address: str, port: int) -> str:
    """As Go prints it in these messages: IPv6 in brackets but for the wildcard (`:::8080`)."""
    return f"{address}:{port}" if ":" not in address or address == ANY_IPV6 else f"[{address}]:{port}"


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open(_PORT_RANGE_PATH) as source:
            low, high = source.read().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return _FALLBACK_RANGE
