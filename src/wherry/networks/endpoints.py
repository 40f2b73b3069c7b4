"""Pure parts of attaching: what a container's record says before and after an interface or a port is added to it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

import msgspec

from wherry.networks.bridge import mac_of
from wherry.networks.firewall import PortFacts
from wherry.networks.ports import Held
from wherry.networks.record import EndpointRecord, NetworkRecord, PublicationRecord, SandboxRecord
from wherry.networks.sandbox import SandboxRequest
from wherry.spec.docker.network import EndpointSettings


def new_endpoint(
    network: NetworkRecord, wish: EndpointSettings, *, address: IPv4Address, prefix: int, ident: str, port: str, interface: str
) -> EndpointRecord:
    """A new interface ``interface`` on a network, without names; ``port``: the host's end."""
    return EndpointRecord(
        id=ident,
        network_id=network.id,
        network=network.name,
        interface=interface,
        port=port,
        mac=wish.mac_address.lower().replace("-", ":") or mac_of(str(address)).hex(":"),
        address=str(address),
        prefix=prefix,
        gateway=network.gateway,
        wanted_address=wish.ipam_config.ipv4_address if wish.ipam_config is not None else "",
        wanted_mac=wish.mac_address,
        aliases=list(wish.aliases or []),
        links=list(wish.links or []),
        driver_options=dict(wish.driver_opts or {}),
        priority=wish.gw_priority,
        internal=network.internal,
    )


def names_of(*words: str) -> list[str]:
    """What a container is called on a network, without what is empty or said twice."""
    return [word for word in dict.fromkeys(words) if word]


def empty(request: SandboxRequest) -> SandboxRecord:
    """Before it has anything."""
    links = {link.alias: link.name for link in request.links}
    return SandboxRecord(
        container_id=request.container_id, name=request.name, hostname=request.hostname, dns=list(request.dns), links=links
    )


def with_ports(record: SandboxRecord, held: Sequence[Held]) -> SandboxRecord:
    """Once it holds published ports."""
    target = gateway_endpoint(record.endpoints)
    found = [
        PublicationRecord(protocol=one.protocol, port=one.port, host_ip=one.host_ip, host_port=one.host_port)
        for one in (item.publication for item in held)
    ]
    return msgspec.structs.replace(record, publications=found, target=target.address if target is not None else "")


def gateway_endpoint(endpoints: Sequence[EndpointRecord]) -> EndpointRecord | None:
    """The one that leads outside: the greatest priority, then the first by network name, as Docker chooses."""
    return min((one for one in endpoints if not one.internal), key=lambda one: (-one.priority, one.network), default=None)


def guards(endpoints: Sequence[EndpointRecord]) -> Sequence[PortFacts]:
    """What the firewall is told of those that may send from their own addresses only."""
    return [one.facts() for one in endpoints if one.guarded]


def renamed(endpoint: EndpointRecord, old: str, new: str) -> EndpointRecord:
    """With the container's new name in the place of the old one."""
    if not endpoint.names:
        return endpoint
    return msgspec.structs.replace(endpoint, names=[new, *(name for name in endpoint.names if name not in (old, new))])
