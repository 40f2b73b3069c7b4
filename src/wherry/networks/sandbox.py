"""A container's network side: what is asked for, and what a running container has."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wherry.networks.files import LinkTarget
from wherry.networks.namespace import Namespace
from wherry.networks.ports import Binding, PortMap
from wherry.networks.record import EndpointRecord, SandboxRecord
from wherry.spec.docker.container import PortBinding
from wherry.spec.docker.network import EndpointIPAM, EndpointSettings
from wherry.spec.launch import Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """A container about to start.

    ``mode``: HostConfig.NetworkMode (bridge, default, none, host, container:ID, or a network). ``networks``: by name or id, in the order of
    interfaces; empty means the one that ``mode`` names. ``join_fd``: of the network namespace of the container that
    ``container:`` names, the caller's.
    ``dns``: servers that replace the host's. ``links``: on a user-defined network they are names for this container alone.
    ``guarded``: may send only from its own addresses; False for a container that may configure interfaces (privileged, NET_ADMIN).
    """

    container_id: str
    name: str
    hostname: str = ""
    mode: str = "bridge"
    networks: Mapping[str, EndpointSettings] = field(default_factory=dict)
    bindings: Sequence[Binding] = ()
    join_fd: int | None = None
    dns: Sequence[str] = ()
    links: Sequence[LinkTarget] = ()
    guarded: bool = True


@dataclass(slots=True, kw_only=True)
class Sandbox:
    """What a running container has.  The daemon keeps its ``namespace`` open until ``Networks.release``.

    ``forwards``: sockets that hold published ports, for the monitor; ``close_forwards`` once it has them. ``hosts_addresses``: for the
    container's own line in its hosts file. ``internal_resolver``: names are served at 127.0.0.11. ``plugged``: its interfaces are there.
    """

    container_id: str
    record: SandboxRecord
    namespace: Namespace | None = None
    forwards: list[tuple[socket.socket, Forward]] = field(default_factory=list)
    internal_resolver: bool = False
    plugged: bool = True

    @property
    def netns_fd(self) -> int | None:
        """None: the host's own network."""
        return None if self.namespace is None else self.namespace.fd

    @property
    def endpoints(self) -> dict[str, EndpointSettings]:
        """By network name, as ``docker inspect`` shows them."""
        return {one.network: settings(one) for one in self.record.endpoints}

    @property
    def ports(self) -> PortMap:
        """Published ports, as ``docker inspect`` shows them."""
        found: PortMap = {}
        for one in self.record.publications:
            places = found.setdefault(f"{one.port}/{one.protocol}", [])
            assert places is not None
            places.append(PortBinding(host_ip=one.host_ip, host_port=str(one.host_port)))
        return found

    @property
    def hosts_addresses(self) -> list[str]:
        return [one.address for one in self.record.endpoints]

    def close_forwards(self) -> None:
        """Close our copies of the sockets that hold published ports."""
        for holder, _ in self.forwards:
            holder.close()
        self.forwards.clear()

    def close(self) -> None:
        """Close all descriptors."""
        self.close_forwards()
        if self.namespace is not None:
            self.namespace.close()
            self.namespace = None


def settings(endpoint: EndpointRecord) -> EndpointSettings:
    """An endpoint as the API shows it."""
    return EndpointSettings(
        ipam_config=EndpointIPAM(ipv4_address=endpoint.wanted_address) if endpoint.wanted_address else None,
        links=list(endpoint.links) or None,
        aliases=list(endpoint.aliases) or None,
        mac_address=endpoint.mac,
        driver_opts=dict(endpoint.driver_options) or None,
        gw_priority=endpoint.priority,
        network_id=endpoint.network_id,
        endpoint_id=endpoint.id,
        gateway="" if endpoint.internal else endpoint.gateway,
        ip_address=endpoint.address,
        ip_prefix_len=endpoint.prefix,
        dns_names=list(endpoint.names) or None,
    )
