"""What a network may be: requests checked and turned into records, records shown and filtered.  Pure; messages are Docker's."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network

import msgspec

from wherry.errors import Conflict, Forbidden, InvalidRequest, NotFound, NotSupported
from wherry.networks import interfaces
from wherry.networks.ipam import parse_address, parse_subnet
from wherry.networks.names import link_of
from wherry.networks.record import NetworkRecord
from wherry.spec.docker.network import AddressPool, EndpointSettings, Network, NetworkAddresses, NetworkContainer, NetworkCreate
from wherry.spec.moment import until_ns

OPTION_HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_OPTION_NAME = "com.docker.network.bridge.name"
_OPTION_ICC = "com.docker.network.bridge.enable_icc"
_OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_OPTION_MTU = "com.docker.network.driver.mtu"
_KNOWN_OPTIONS = {
    OPTION_HOST_BINDING,
    _OPTION_NAME,
    _OPTION_ICC,
    _OPTION_MASQUERADE,
    _OPTION_MTU,
    "com.docker.network.bridge.default_bridge",
    "com.docker.network.container_iface_prefix",
}
_LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_FILTERS = ("until", "label", "label!")

Choice = Callable[[NetworkRecord], bool]


def check(body: NetworkCreate) -> NetworkRecord:
    """A create body as a record without id and bridge.  Raises InvalidRequest, Forbidden, NotFound, NotSupported."""
    if not body.name.strip():
        raise InvalidRequest("invalid name: name is empty")
    if body.name in ("bridge", "host", "none", "default"):
        raise Forbidden(f"operation is not permitted on predefined {body.name} network")
    driver = body.driver or "bridge"
    if driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver != "bridge":
        raise NotFound(f'plugin "{driver}" not found')
    _refuse_unsupported(body)
    ipam = body.ipam or NetworkAddresses()
    options = dict(body.options or {})
    pool = _pool(ipam)
    return NetworkRecord(
        id="",
        name=body.name,
        driver=driver,
        created="",
        bridge=_bridge_name(options),
        subnet=str(parse_subnet(pool.subnet)) if pool.subnet else "",
        ip_range=_ip_range(pool),
        gateway=_inside(pool.gateway, pool, "gateway"),
        auxiliary={name: _inside(address, pool, "auxiliary address") for name, address in (pool.auxiliary_addresses or {}).items()},
        chosen=bool(pool.subnet),
        gateway_chosen=bool(pool.gateway),
        internal=body.internal,
        attachable=body.attachable,
        options=options,
        ipam_options=ipam.options if ipam.options is not None else {},
        labels=dict(body.labels or {}),
        mtu=_mtu(options),
        isolated=not _is_true(options, _OPTION_ICC),
        masquerade=_is_true(options, _OPTION_MASQUERADE),
    )


def predefined(name: str, driver: str, ident: str, bridge: str, created: str) -> NetworkRecord:
    """The record of ``bridge``, ``host`` or ``none``, still without a subnet."""
    if driver != "bridge":
        return NetworkRecord(id=ident, name=name, driver=driver, created=created, predefined=True)
    options = {
        "com.docker.network.bridge.default_bridge": "true",
        _OPTION_ICC: "true",
        _OPTION_MASQUERADE: "true",
        OPTION_HOST_BINDING: "0.0.0.0",
        _OPTION_NAME: bridge,
        _OPTION_MTU: "1500",
    }
    return NetworkRecord(id=ident, name=name, driver=driver, created=created, predefined=True, bridge=bridge, options=options, mtu=1500)


def with_gateway(record: NetworkRecord) -> NetworkRecord:
    """Give the network the first address of its range as gateway, unless one was named."""
    if record.gateway:
        return record
    first = IPv4Network(record.ip_range or record.subnet).network_address
    base = IPv4Network(record.subnet)
    taken = set(record.auxiliary.values())
    candidate = first + 1 if first == base.network_address and base.prefixlen < 31 else first
    while str(candidate) in taken:
        candidate += 1
    return msgspec.structs.replace(record, gateway=str(candidate))


def check_endpoint(network: NetworkRecord, wish: EndpointSettings) -> None:
    """``check_wish`` for a container's configuration: the message names the network."""
    try:
        check_wish(network, wish)
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid config for network {network.name}: {error}") from error


def check_wish(network: NetworkRecord, wish: EndpointSettings) -> None:
    """Refuse addresses, aliases and options that the network cannot give.  Raises InvalidRequest, NotSupported."""
    problems: list[str] = []
    asked = wish.ipam_config
    if asked is not None and (asked.ipv6_address or asked.link_local_ips):
        raise NotSupported("IPv6 and link-local endpoint addresses are not supported")
    if asked is not None and asked.ipv4_address:
        if network.predefined:
            problems.append("user specified IP address is supported on user defined networks only")
        if not network.chosen:
            problems.append("user specified IP address is supported only when connecting to networks with user configured subnets")
        elif parse_address(asked.ipv4_address) not in IPv4Network(network.subnet):
            problems.append(f"no configured subnet or ip-range contain the IP address {asked.ipv4_address}")
    if wish.aliases and network.predefined:
        problems.append("network-scoped alias is supported only for containers in user defined networks")
    problems += interfaces.problems(wish.driver_opts)
    for link in wish.links or ():
        link_of(link)
    if problems:
        listed = "\n".join(problems) if len(problems) == 1 else "\n".join(f"* {one}" for one in problems)
        raise InvalidRequest(f"invalid endpoint settings:\n{listed}")
    if wish.mac_address and not _is_mac(wish.mac_address):
        raise InvalidRequest(f"invalid MAC address {wish.mac_address}")


def check_connect(network: NetworkRecord, present: Sequence[NetworkRecord], name: str) -> None:
    """Refuse to connect where it makes no sense.  Raises Forbidden, Conflict."""
    if network.driver == "null":
        raise InvalidRequest("container cannot be connected to multiple networks with one of the networks in private (none) mode")
    if network.driver == "host":
        raise Conflict("cannot connect container to host network - container must be created in host network mode")
    if any(one.id == network.id for one in present):
        raise Forbidden(f"endpoint with name {name} already exists in network {network.name}")


def shown(record: NetworkRecord, containers: dict[str, NetworkContainer]) -> Network:
    """A network as the API shows it."""
    pools: list[AddressPool] | None = None
    if record.subnet:
        auxiliary = dict(record.auxiliary) or None
        gateway = (
            record.gateway if record.gateway_chosen or not record.chosen else ""
        )  # Docker does not tell what it chose in a user's subnet
        pools = [AddressPool(subnet=record.subnet, ip_range=record.ip_range, gateway=gateway, auxiliary_addresses=auxiliary)]
    options = dict(record.ipam_options) if record.ipam_options is not None else None
    return Network(
        name=record.name,
        id=record.id,
        created=record.created,
        driver=record.driver,
        ipam=NetworkAddresses(driver="default", options=options, config=pools),
        internal=record.internal,
        attachable=record.attachable,
        containers=containers,
        options=dict(record.options),
        labels=dict(record.labels),
    )


def list_filter(filters: Mapping[str, Sequence[str]], used: Collection[str]) -> Choice:
    """What ``GET /networks`` was asked for; ``used``: ids of networks with running containers.  Raises InvalidRequest."""
    _refuse_unknown(filters, _LIST_FILTERS)
    for value in filters.get("type", ()):
        if value not in ("custom", "builtin"):
            raise InvalidRequest(f"invalid filter: 'type'='{value}'")
    dangling = [_boolean("dangling", value) for value in filters.get("dangling", ())]

    def chosen(record: NetworkRecord) -> bool:
        kind = "builtin" if record.predefined else "custom"
        return (
            _any(filters.get("driver"), lambda value: value == record.driver)
            and _any(filters.get("id"), record.id.startswith)
            and _any(filters.get("name"), lambda value: _matches(value, record.name))
            and _any(filters.get("scope"), lambda value: value == "local")
            and _any(filters.get("type"), lambda value: value == kind)
            and all(has_label(record.labels, value) for value in filters.get("label", ()))
            and all(value == (not record.predefined and record.id not in used) for value in dangling)
        )

    return chosen


def prune_filter(filters: Mapping[str, Sequence[str]]) -> Choice:
    """What a prune may remove.  Raises InvalidRequest."""
    _refuse_unknown(filters, _PRUNE_FILTERS)
    until = until_ns(filters)

    def chosen(record: NetworkRecord) -> bool:
        born = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", record.created)).timestamp()
        return (
            (until is None or born * 1e9 <= until)
            and all(has_label(record.labels, value) for value in filters.get("label", ()))
            and not any(has_label(record.labels, value) for value in filters.get("label!", ()))
        )

    return chosen


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """``key`` or ``key=value``."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _refuse_unsupported(body: NetworkCreate) -> None:
    if body.enable_ipv6:
        raise NotSupported("IPv6 networks are not supported")
    if body.enable_ipv4 is False:
        raise InvalidRequest("IPv4 or IPv6 must be enabled")
    if body.ingress or body.scope not in ("", "local"):
        raise NotSupported("swarm networks are not supported")
    if body.config_only or (body.config_from is not None and body.config_from.network):
        raise NotSupported("config-only networks are not supported")
    ipam = body.ipam
    if ipam is not None and ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{ipam.driver}" not found')
    for option in body.options or {}:
        if option not in _KNOWN_OPTIONS or option == "com.docker.network.container_iface_prefix":
            if option.startswith("com.docker.network."):
                raise NotSupported(f"network option {option} is not supported")


def _pool(ipam: NetworkAddresses) -> AddressPool:
    pools = [one for one in ipam.config or [] if one.subnet or one.gateway or one.ip_range or one.auxiliary_addresses]
    if not pools:
        return AddressPool()
    if any(":" in one.subnet for one in pools):
        raise NotSupported("IPv6 networks are not supported")
    if len(pools) > 1:
        raise NotSupported("more than one IPv4 subnet in a network is not supported")
    if not pools[0].subnet:
        raise InvalidRequest("invalid network config:\nevery ip-range or gateway must have a corresponding subnet")
    return pools[0]


def _ip_range(pool: AddressPool) -> str:
    if not pool.ip_range:
        return ""
    try:
        found = IPv4Network(pool.ip_range)
    except ValueError:
        raise InvalidRequest(f"invalid network config:\ninvalid ip-range {pool.ip_range}: invalid CIDR block notation") from None
    if not found.subnet_of(IPv4Network(pool.subnet)):
        raise InvalidRequest(
            f"invalid network config:\ninvalid ip-range {pool.ip_range}: parent subnet {pool.subnet} doesn't contain ip-range"
        )
    return str(found)


def _inside(value: str, pool: AddressPool, what: str) -> str:
    if not value:
        return ""
    try:
        address = IPv4Address(value)
    except ValueError:
        raise InvalidRequest(f"invalid network config:\ninvalid {what} {value}: invalid address") from None
    if address not in IPv4Network(pool.subnet):
        raise InvalidRequest(f"invalid network config:\ninvalid {what} {value}: parent subnet {pool.subnet} doesn't contain this address")
    return str(address)


def _bridge_name(options: Mapping[str, str]) -> str:
    name = options.get(_OPTION_NAME, "")
    if name and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}", name):
        raise InvalidRequest(f"invalid bridge name: {name}")
    return name


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(_OPTION_MTU, "")
    if not value:
        return 0
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 68 <= int(value) <= 65535:
        raise InvalidRequest(f"invalid mtu: {value}")
    return int(value)


def _is_true(options: Mapping[str, str], name: str) -> bool:
    value = options.get(name, "true")
    try:
        return _boolean(name, value)
    except InvalidRequest:
        raise InvalidRequest(f"failed to parse {name} value: {value}") from None


def _boolean(key: str, value: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidRequest(f'invalid value for filter \'{key}\', must be "true" (or "1"), or "false" (or "0")')


def _is_mac(value: str) -> bool:
    found = re.fullmatch(r"([0-9a-fA-F]{2})([:-][0-9a-fA-F]{2}){5}", value)
    return found is not None and not int(found[1], 16) & 1


def _refuse_unknown(filters: Mapping[str, Sequence[str]], known: Collection[str]) -> None:
    for key in filters:
        if key not in known:
            raise InvalidRequest(f"invalid filter '{key}'")


def _any(values: Sequence[str] | None, test: Callable[[str], bool]) -> bool:
    return not values or any(test(value) for value in values)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name
