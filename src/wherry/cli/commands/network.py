"""``wherry network ...``."""

from __future__ import annotations

import sys

from wherry.cli import environment
from wherry.cli.commands.volume import joined, label_method, natural, pairs
from wherry.cli.flags import Command, Failure, Flag, Invocation, filters
from wherry.cli.inspection import run_inspect
from wherry.cli.many import for_each, is_absent
from wherry.cli.output import Listing, go_time
from wherry.cli.prompt import confirm
from wherry.cli.pruning import DRY_RUN, show_preview
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ipaddress
    from typing import Any

LISTING = Listing(
    "*formatter.networkContext",
    {
        "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL",
        "Labels": "LABELS", "CreatedAt": "CREATED AT",
    },
    ("ID", "Name", "Driver", "Scope"),
)  # fmt: skip
SWARM = "Swarm networks are not supported"


def run_create(invocation: Invocation) -> int:
    body: dict[str, Any] = {
        "Name": invocation.arguments[0],
        "Driver": invocation.text("driver"),
        "Internal": invocation.flag("internal"),
        "Attachable": invocation.flag("attachable"),
        "IPAM": {
            "Driver": invocation.text("ipam-driver"),
            "Options": pairs(invocation.texts("ipam-opt")),
            "Config": _pools(invocation),
        },
        "Options": pairs(invocation.texts("opt")),
        "Labels": pairs(invocation.texts("label")),
    }
    for name, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if name in invocation.given:
            body[key] = invocation.flag(name)
    answer = invocation.program.engine.post("/networks/create", None, body)
    if answer.get("Warning"):
        sys.stderr.write(f"WARNING: {answer['Warning']}\n")
    print(answer["Id"])
    return 0


def _pools(invocation: Invocation) -> list[dict[str, Any]]:
    """Subnets with the range, gateway and reserved addresses that lie in each."""
    import ipaddress

    subnets, ranges, gateways = _listed(invocation, "subnet"), _listed(invocation, "ip-range"), _listed(invocation, "gateway")
    reserved = pairs(invocation.texts("aux-address"))
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise Failure("every ip-range or gateway must have a corresponding subnet")
    pools: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, dict[str, Any]]] = []
    for subnet in subnets:
        try:
            network = ipaddress.ip_network(subnet, strict=False)
        except ValueError:
            return [{"Subnet": subnet}]  # the daemon says what is wrong with it
        if any(known.version == network.version and known.overlaps(network) for known, _ in pools):
            raise Failure("multiple overlapping subnet configuration is not supported")
        pools.append((network, {"Subnet": subnet}))
    for what, key, values in (("range", "IPRange", ranges), ("gateway", "Gateway", gateways)):
        for value in values:
            _pool_of(pools, what, value, key)[key] = value
    for name, address in reserved.items():
        pool = _pool_of(pools, "aux-address", address, "")
        pool.setdefault("AuxiliaryAddresses", {})[name] = address
    return [pool for _, pool in pools]


def _pool_of(
    pools: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, dict[str, Any]]], what: str, value: str, key: str
) -> dict[str, Any]:
    import ipaddress

    try:
        address = ipaddress.ip_address(value.partition("/")[0])
    except ValueError:
        raise Failure(f"invalid {what}: {value}") from None
    for network, pool in pools:
        if address.version == network.version and address in network:
            if key and key in pool:
                raise Failure(f"cannot configure multiple {what}s ({value}, {pool[key]}) on the same subnet ({pool['Subnet']})")
            return pool
    raise Failure(f"no matching subnet for {what} {value}")


def _listed(invocation: Invocation, name: str) -> list[str]:
    """Values given several times, or joined by commas."""
    return [part for text in invocation.texts(name) for part in text.split(",") if part]


def run_list(invocation: Invocation) -> int:
    found = invocation.program.engine.get("/networks", {"filters": filters(invocation.texts("filter"))}) or []
    found.sort(key=lambda network: natural(network["Name"]))
    trunc = not invocation.flag("no-trunc")
    layout = invocation.text("format")
    rows = [_row(network, trunc=trunc) for network in found]
    if invocation.flag("quiet") and not layout:
        sys.stdout.write("".join(row["ID"] + "\n" for row in rows))
        return 0
    layout = layout or str(invocation.program.config().get("networksFormat") or "")
    sys.stdout.write(LISTING.text(rows, layout, methods=label_method))
    return 0


def _row(network: dict[str, Any], *, trunc: bool) -> dict[str, str]:
    return {
        "ID": network["Id"][:12] if trunc else network["Id"],
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Scope": network["Scope"],
        "IPv4": _word(network.get("EnableIPv4", True)),
        "IPv6": _word(network.get("EnableIPv6")),
        "Internal": _word(network.get("Internal")),
        "Labels": joined(network.get("Labels")),
        "CreatedAt": go_time(network.get("Created") or ""),
    }


def _word(value: object) -> str:
    return "true" if value else "false"


def run_inspect_networks(invocation: Invocation) -> int:
    engine = invocation.program.engine
    query = {"verbose": invocation.flag("verbose")}
    return run_inspect(invocation.text("format"), invocation.arguments, lambda name: engine.get(f"/networks/{quote(name)}", query))


def run_remove(invocation: Invocation) -> int:
    engine = invocation.program.engine
    force = invocation.flag("force")

    def remove(name: str) -> str | None:
        from wherry.client.engine import ApiError

        try:
            engine.delete(f"/networks/{quote(name)}")
        except ApiError as error:
            if force and is_absent(error):
                return None
            raise
        return name

    status = for_each(invocation.arguments, remove)
    if status:
        sys.stderr.write("exit status 1\n")
    return status


def run_prune(invocation: Invocation) -> int:
    if invocation.flag("dry-run"):
        return show_preview(invocation, {"networks": filters(invocation.texts("filter"))})
    if not invocation.flag("force") and not confirm("WARNING! This will remove all custom networks not used by at least one container."):
        return 0
    report = invocation.program.engine.post("/networks/prune", {"filters": filters(invocation.texts("filter"))}) or {}
    if report.get("NetworksDeleted"):
        print("Deleted Networks:\n" + "\n".join(report["NetworksDeleted"]) + "\n")
    return 0


def run_connect(invocation: Invocation) -> int:
    network, container = invocation.arguments
    endpoint: dict[str, Any] = {
        "IPAMConfig": {"IPv4Address": invocation.text("ip"), "IPv6Address": invocation.text("ip6")},
        "Links": invocation.texts("link"),
        "Aliases": _listed(invocation, "alias"),
        "DriverOpts": pairs(invocation.texts("driver-opt")),
        "GwPriority": invocation.number("gw-priority"),
    }
    invocation.program.engine.post(f"/networks/{quote(network)}/connect", None, {"Container": container, "EndpointConfig": endpoint})
    return 0


def run_disconnect(invocation: Invocation) -> int:
    network, container = invocation.arguments
    body = {"Container": container, "Force": invocation.flag("force")}
    invocation.program.engine.post(f"/networks/{quote(network)}/disconnect", None, body)
    return 0


CREATE = Command(
    "[OPTIONS] NETWORK",
    "Create a network",
    run_create,
    flags=(
        Flag("attachable", "bool", "Enable manual container attachment"),
        Flag("aux-address", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
        Flag("config-from", "string", "The network from which to copy the configuration", refused=SWARM),
        Flag("config-only", "bool", "Create a configuration only network", refused=SWARM),
        Flag("driver", "string", "Driver to manage the Network", short="d", default="bridge"),
        Flag("gateway", "strings", "IPv4 or IPv6 Gateway for the master subnet"),
        Flag("ingress", "bool", "Create swarm routing-mesh network", refused=SWARM),
        Flag("internal", "bool", "Restrict external access to the network"),
        Flag("ip-range", "strings", "Allocate container ip from a sub-range"),
        Flag("ipam-driver", "string", "IP Address Management Driver", default="default"),
        Flag("ipam-opt", "map", "Set IPAM driver specific options"),
        Flag("ipv4", "bool", "Enable or disable IPv4 address assignment", default=True),
        Flag("ipv6", "bool", "Enable or disable IPv6 address assignment"),
        Flag("label", "list", "Set metadata on a network", parse=environment.label),
        Flag("opt", "map", "Set driver specific options", short="o"),
        Flag("scope", "string", "Control the network's scope", refused=SWARM),
        Flag("subnet", "strings", "Subnet in CIDR format that represents a network segment"),
    ),
    minimum=1,
    maximum=1,
)
LS = Command(
    "[OPTIONS]",
    "List networks",
    run_list,
    flags=(
        Flag("filter", "filter", 'Provide filter values (e.g. "driver=bridge")', short="f"),
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("no-trunc", "bool", "Do not truncate the output"),
        Flag("quiet", "bool", "Only display network IDs", short="q"),
    ),
    maximum=0,
)
INSPECT = Command(
    "[OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    run_inspect_networks,
    flags=(
        Flag("format", "string", "json, or a Go template", short="f"),
        Flag("verbose", "bool", "Verbose output for diagnostics", short="v"),
    ),
    minimum=1,
)
RM = Command(
    "NETWORK [NETWORK...]",
    "Remove one or more networks",
    run_remove,
    flags=(Flag("force", "bool", "Do not error if the network does not exist", short="f"),),
    minimum=1,
)
PRUNE = Command(
    "[OPTIONS]",
    "Remove all unused networks",
    run_prune,
    flags=(
        DRY_RUN,
        Flag("filter", "filter", 'Provide filter values (e.g. "until=<timestamp>")'),
        Flag("force", "bool", "Do not prompt for confirmation", short="f"),
    ),
    maximum=0,
)
CONNECT = Command(
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    run_connect,
    flags=(
        Flag("alias", "strings", "Add network-scoped alias for the container"),
        Flag("driver-opt", "strings", "driver options for the network"),
        Flag("gw-priority", "int", "Highest gw-priority provides the default gateway. Accepts positive and negative values"),
        Flag("ip", "string", 'IPv4 address (e.g., "172.30.100.104")'),
        Flag("ip6", "string", 'IPv6 address (e.g., "2001:db8::33")'),
        Flag("link", "list", "Add link to another container"),
        Flag("link-local-ip", "strings", "Add a link-local address for the container", refused="link-local addresses are not assigned"),
    ),
    minimum=2,
    maximum=2,
)
DISCONNECT = Command(
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    run_disconnect,
    flags=(Flag("force", "bool", "Force the container to disconnect from a network", short="f"),),
    minimum=2,
    maximum=2,
)
