"""What the database keeps about networks, and about the sandboxes of running containers."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

import msgspec

from wherry.errors import Forbidden
from wherry.networks.firewall import BridgeFacts, PortFacts, Target
from wherry.networks.ipam import Pool
from wherry.networks.ports import Publication

_subnet = lru_cache(maxsize=4096)(IPv4Network)  # of all networks: every new one is compared with all others
LABEL = "wherry"  # every interface of ours has an alias that begins with it


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A network as it was created.  ``subnet`` is empty for host and none; ``chosen``: the subnet was a user's wish."""

    id: str
    name: str
    driver: str
    created: str
    predefined: bool = False
    bridge: str = ""
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary: dict[str, str] = {}
    chosen: bool = False
    gateway_chosen: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    ipam_options: dict[str, str] | None = None
    labels: dict[str, str] = {}
    mtu: int = 0
    isolated: bool = False
    masquerade: bool = True

    @property
    def is_bridge(self) -> bool:
        return self.driver == "bridge"

    @property
    def is_default(self) -> bool:
        """The predefined ``bridge``: without names, with legacy links."""
        return self.predefined and self.is_bridge

    def label(self, tag: str) -> str:
        """The alias of its bridge."""
        return f"{LABEL}:{tag}:network:{self.id}"

    def pool(self) -> Pool:
        """A fresh pool, in which the gateway and the auxiliary addresses are taken."""
        pool = Pool.of(self.ipv4, IPv4Network(self.ip_range) if self.ip_range else None)
        try:
            pool.reserve(IPv4Address(self.gateway))
        except Forbidden as error:
            raise Forbidden(f"failed to allocate gateway ({self.gateway}): {error}") from error
        for address in set(self.auxiliary.values()) - {self.gateway}:
            pool.reserve(IPv4Address(address))
        return pool

    @property
    def ipv4(self) -> IPv4Network:
        """The subnet as a value; of bridges only."""
        return _subnet(self.subnet)

    def facts(self) -> BridgeFacts:
        return BridgeFacts(bridge=self.bridge, subnet=self.ipv4, internal=self.internal, masquerade=self.masquerade)


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A container's interface on a bridge network."""

    id: str
    network_id: str
    network: str
    interface: str  # as the container sees it
    port: str  # the host's end
    mac: str
    address: str
    prefix: int
    gateway: str
    wanted_address: str = ""
    wanted_mac: str = ""
    aliases: list[str] = []
    links: list[str] = []
    driver_options: dict[str, str] = {}
    names: list[str] = []
    priority: int = 0
    internal: bool = False
    guarded: bool = True

    def label(self, tag: str, container_id: str) -> str:
        """The alias of the host's end."""
        return f"{LABEL}:{tag}:container:{container_id}"

    def facts(self) -> PortFacts:
        return PortFacts(port=self.port, mac=bytes.fromhex(self.mac.replace(":", "")), address=IPv4Address(self.address))


class PublicationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A published port."""

    protocol: str
    port: int
    host_ip: str
    host_port: int

    def publication(self) -> Publication:
        return Publication(protocol=self.protocol, port=self.port, host_ip=self.host_ip, host_port=self.host_port)


class SandboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a running container holds, written before the kernel is asked for it."""

    container_id: str
    name: str
    hostname: str = ""
    endpoints: list[EndpointRecord] = []
    publications: list[PublicationRecord] = []
    target: str = ""  # the address that published ports lead to
    dns: list[str] = []
    links: dict[str, str] = {}  # alias -> container name, for this container alone, besides those of its endpoints

    def targets(self) -> list[Target]:
        return [Target(publication=one.publication(), address=IPv4Address(self.target)) for one in self.publications]

    def ports(self) -> list[PortFacts]:
        return [one.facts() for one in self.endpoints if one.guarded]
