"""Network bodies: create, inspect, connect, and a container's endpoints.  Source: Engine API 1.51."""

from __future__ import annotations

from msgspec import field

from wherry.spec.docker.body import Body, shown


class EndpointIPAM(Body):
    """Addresses a user asked for."""

    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: list[str] | None = field(default=None, name="LinkLocalIPs")


class EndpointSettings(Body):
    """A container on a network: first what was asked for, then what is."""

    ipam_config: EndpointIPAM | None = shown(None, "IPAMConfig")
    links: list[str] | None = shown(None)
    aliases: list[str] | None = shown(None)
    mac_address: str = shown("")
    driver_opts: dict[str, str] | None = shown(None)
    gw_priority: int = shown(0)
    network_id: str = shown("", "NetworkID")
    endpoint_id: str = shown("", "EndpointID")
    gateway: str = shown("")
    ip_address: str = shown("", "IPAddress")
    ip_prefix_len: int = shown(0, "IPPrefixLen")
    ipv6_gateway: str = shown("", "IPv6Gateway")
    global_ipv6_address: str = shown("", "GlobalIPv6Address")
    global_ipv6_prefix_len: int = shown(0, "GlobalIPv6PrefixLen")
    dns_names: list[str] | None = shown(None, "DNSNames")


class AddressPool(Body):
    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class NetworkAddresses(Body):
    """How a network gives out addresses (``IPAM``)."""

    driver: str = shown("default")
    options: dict[str, str] | None = shown(None)
    config: list[AddressPool] | None = shown(None)


class ConfigFrom(Body):
    network: str = shown("")


class NetworkContainer(Body):
    name: str = shown("")
    endpoint_id: str = shown("", "EndpointID")
    mac_address: str = shown("")
    ipv4_address: str = shown("", "IPv4Address")
    ipv6_address: str = shown("", "IPv6Address")


class Network(Body):
    """GET /networks/{id}.  ``containers`` is empty in lists."""

    name: str = shown("")
    id: str = shown("")
    created: str = shown("")
    scope: str = shown("local")
    driver: str = shown("bridge")
    enable_ipv4: bool = shown(True, "EnableIPv4")
    enable_ipv6: bool = shown(False, "EnableIPv6")
    ipam: NetworkAddresses = shown(NetworkAddresses(), "IPAM")
    internal: bool = shown(False)
    attachable: bool = shown(False)
    ingress: bool = shown(False)
    config_from: ConfigFrom = shown(ConfigFrom())
    config_only: bool = shown(False)
    containers: dict[str, NetworkContainer] = shown({})
    options: dict[str, str] | None = shown({})
    labels: dict[str, str] | None = shown({})


class NetworkCreate(Body):
    """POST /networks/create.  ``driver`` empty: bridge.  None: not said."""

    name: str = shown("")
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    ipam: NetworkAddresses | None = field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFrom | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    check_duplicate: bool = False  # before API 1.44; names are always unique


class NetworkCreated(Body):
    id: str = shown("")
    warning: str = shown("")


class NetworkConnect(Body):
    container: str = shown("")
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnect(Body):
    container: str = shown("")
    force: bool = False


class NetworksPruned(Body):
    networks_deleted: list[str] | None = shown(None)
