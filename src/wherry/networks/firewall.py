"""The daemon's nf_tables rules: built once in one transaction; a network, a container or a port is elements added later.

Table ``inet <tag>``:
    raw (prerouting, before conntrack)   what comes from a bridge neither has nor wants an address of 127.0.0.0/8
    forward                              within a bridge: yes; answers: yes; internal networks: no; published ports: yes;
                                         anything else towards a bridge (other networks, direct routing from outside): no
    dnat, dnat-local (nat)               published ports, by two maps: for one host address, for any local address
    snat (nat)                           masquerade what leaves a subnet, what 127.0.0.1 sends to a bridge, and what a container
                                         sends to a published port
Table ``bridge <tag>``:
    guard                                a guarded port sends only from its own hardware and IPv4 address, and no IPv6

Forwarding needs every forward hook's consent: where another program's policy is drop (Docker sets one when it switches forwarding on
itself), traffic of containers needs that program's permission too. Docker's is asked for in ``docker_user``; other programs' rules we
never touch, but say what they do.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from wherry.netlink import nftables
from wherry.netlink.nftables import Element, Table, Transaction, field_bytes, ifname
from wherry.netlink.request import Netlink
from wherry.networks import docker_user
from wherry.networks.ports import ANY_IPV4, PROTOCOLS, Publication
from wherry.networks.watch import Reaction, Watch

log = logging.getLogger(__name__)

_REGISTER = nftables.REG32_00
_ETH_P_IP, _ETH_P_ARP, _ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
_LOOPBACK_MASK, _LOOPBACK = bytes([255, 0, 0, 0]), bytes([127, 0, 0, 0])
_IFNAME = (nftables.TYPE_IFNAME, nftables.IFNAME_SIZE)
_IPV4 = (nftables.TYPE_IPV4, 4)
_PROTOCOL = (nftables.TYPE_PROTOCOL, 1)
_SERVICE = (nftables.TYPE_SERVICE, 2)
_ETHER = (nftables.TYPE_ETHER, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeFacts:
    """What the rules need of a bridge network."""

    bridge: str
    subnet: IPv4Network
    internal: bool
    masquerade: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFacts:
    """What the rules need of a container's interface: its port of the bridge, and the addresses it may send from."""

    port: str
    mac: bytes
    address: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A publication and where it leads."""

    publication: Publication
    address: IPv4Address


class Firewall:
    """Keeps the tables. ``snapshot`` tells all that should be in them: used to build them, at start or after someone flushed them.

    ``bridges``: the names of all that it tells of. ``docker_user``: whether they may be named in Docker's chain for that.
    """

    def __init__(
        self,
        tag: str,
        snapshot: Callable[[], tuple[Sequence[BridgeFacts], Sequence[PortFacts], Sequence[Target]]],
        *,
        bridges: Callable[[], Sequence[str]],
        docker_user: bool = True,
    ) -> None:
        self._docker_user = docker_user
        self._inet = Table(nftables.NFPROTO_INET, tag)
        self._bridge = Table(nftables.NFPROTO_BRIDGE, tag)
        self._snapshot = snapshot
        self._bridges = bridges
        self._lock = threading.Lock()
        self._usable = True
        self._guards = True
        self._netlink: Netlink | None = None
        self._watch: Watch | None = None

    @property
    def usable(self) -> bool:
        """Whether the kernel has nf_tables; without, ports are relayed in user space only and networks are not kept apart."""
        return self._usable

    def warnings(self) -> list[str]:
        """What the rules cannot do here, in sentences for a person."""
        if not self._usable:
            return ["nf_tables is not usable: published ports are relayed in user space, and networks are not kept apart"]
        with nftables.connect() as netlink:
            blocking = nftables.dropping_forward_chains(netlink)
            admitted = self._docker_user and docker_user.is_asked(netlink)
        return [
            f"another program's firewall (chain {chain} of table {table.name}) drops what it does not know: containers reach neither each "
            f"other nor other machines until it accepts traffic of the bridges {self._inet.name}*"
            for table, chain in blocking
            if not (admitted and docker_user.excuses(table, chain))
        ]

    def build(self) -> None:
        """Replace both tables in one transaction by what ``snapshot`` tells."""
        with self._lock:
            self._build()
            self._admit()

    def watch(self) -> None:
        """From now on, put right what other programs do to the tables, as soon as the kernel tells."""
        if self._usable and self._watch is None:
            name = self._inet.name
            ours = Reaction(
                concerns=lambda notice: nftables.table_name(notice) == name,
                mend=self.build,
                warning=f"nf_tables: another program changed table {name}; building it again",
            )
            neighbour = Reaction(concerns=docker_user.concerns, mend=self.admit)
            self._watch = Watch([ours, neighbour] if self._docker_user else [ours], own_port=self._port)

    def admit(self) -> None:
        """See that Docker's chain, where it exists, lets our bridges pass."""
        with self._lock:
            self._admit()

    def add_network(self, network: BridgeFacts) -> None:
        """Let a network in that ``snapshot`` tells of already."""
        self._apply(lambda work: self._network(work.add_elements, network), adds=True)
        self.admit()

    def remove_networks(self, networks: Sequence[BridgeFacts]) -> None:
        """Take networks out that ``snapshot`` still tells of."""

        def fill(work: Transaction) -> None:
            for network in networks:
                self._network(work.delete_elements, network)

        self._apply(fill, adds=False)
        with self._lock:
            self._admit(without={one.bridge for one in networks})

    def add(self, ports: Sequence[PortFacts], targets: Sequence[Target]) -> None:
        """Let a container's interfaces and published ports in, in one transaction."""
        self._apply(lambda work: self._container(work.add_elements, ports, targets), adds=True)

    def remove(self, ports: Sequence[PortFacts], targets: Sequence[Target]) -> None:
        self._apply(lambda work: self._container(work.delete_elements, ports, targets), adds=False)

    def destroy(self) -> None:
        """Take both tables, and our rules among Docker's, away."""
        with self._lock:
            self._name_to_docker(())
            for table in self._tables():
                work = Transaction()
                work.add_table(table)
                work.delete_table(table)
                self._commit(work)

    def close(self) -> None:
        """End the watch and close the socket; the tables stay."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        with self._lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

    def _port(self) -> int:
        with self._lock:
            return self._netlink.port if self._netlink is not None else 0

    def _admit(self, *, without: Collection[str] = ()) -> None:
        self._name_to_docker([name for name in self._bridges() if name not in without])

    def _name_to_docker(self, bridges: Sequence[str]) -> None:
        if not self._usable:
            return
        try:
            docker_user.admit(self._socket(), self._inet.name, bridges if self._docker_user else ())
        except OSError as error:  # the chain went while we looked, or somebody reserved it
            log.warning("nf_tables: %s", error)

    def _apply(self, fill: Callable[[Transaction], None], *, adds: bool) -> None:
        with self._lock:
            if not self._usable:
                return
            work = Transaction()
            fill(work)
            try:
                self._commit(work)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EEXIST):
                    raise
                # Somebody flushed or changed our tables, or they were built just now, without what is to go. Build them from what we know.
                log.log(logging.WARNING if adds else logging.DEBUG, "nf_tables: %s; building the table again", error)
                self._build()
                self._again(work, adds=adds)

    def _again(self, work: Transaction, *, adds: bool) -> None:
        """In tables that were just built: the snapshot need not tell yet of what is added, and may still tell of what goes."""
        try:
            self._commit(work)
        except OSError as error:
            if adds or error.errno != errno.ENOENT:
                raise

    def _build(self) -> None:
        networks, ports, targets = self._snapshot()
        while self._usable:
            work = Transaction()
            for table in self._tables():
                work.add_table(table)
                work.delete_table(table)
                work.add_table(table)
            _add_sets(work, self._inet)
            _add_chains(work, self._inet)
            if self._guards:
                _add_guard(work, self._bridge)
            for network in networks:
                self._network(work.add_elements, network)
            self._container(work.add_elements, ports, targets)
            try:
                self._commit(work)
            except OSError as error:
                self._degrade(error)
            else:
                return

    def _degrade(self, error: OSError) -> None:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise error
        if self._guards:
            self._guards = False
            log.warning("nf_tables: %s; trying without address guards on bridge ports", error)
            return
        self._usable = False
        log.warning("nf_tables is not usable (%s): published ports are relayed in user space, networks are not kept apart", error)

    def _commit(self, work: Transaction) -> None:
        work.commit(self._socket())

    def _socket(self) -> Netlink:
        # One for good: the kernel makes the close of one wait for the removal of everything deleted (over 10 ms).
        if self._netlink is None:
            self._netlink = nftables.connect()
        return self._netlink

    def _tables(self) -> list[Table]:
        return [self._inet, self._bridge] if self._guards else [self._inet]

    def _network(self, change: Callable[[Table, str, Sequence[Element]], None], network: BridgeFacts) -> None:
        name = ifname(network.bridge)
        change(self._inet, "bridges", [Element(name)])
        change(self._inet, "pairs", [Element(name + name)])
        if network.internal:
            change(self._inet, "internal", [Element(name)])
        elif network.masquerade:
            end = int(network.subnet.broadcast_address) + 1
            change(self._inet, "subnets", [Element(network.subnet.network_address.packed, end=end.to_bytes(4, "big"))])

    def _container(
        self, change: Callable[[Table, str, Sequence[Element]], None], ports: Sequence[PortFacts], targets: Sequence[Target]
    ) -> None:
        if ports and self._guards:
            change(self._bridge, "guarded", [Element(ifname(one.port)) for one in ports])
            change(self._bridge, "macs", [Element(field_bytes(ifname(one.port), one.mac)) for one in ports])
            change(self._bridge, "addresses", [Element(field_bytes(ifname(one.port), one.address.packed)) for one in ports])
        for name, elements in _port_elements(targets):
            if elements:
                change(self._inet, name, elements)


def _port_elements(targets: Iterable[Target]) -> tuple[tuple[str, list[Element]], tuple[str, list[Element]]]:
    anywhere: list[Element] = []
    addressed: list[Element] = []
    for target in targets:
        one = target.publication
        if ":" in one.host_ip:
            continue  # IPv6 reaches an IPv4 container only by the monitor's relay
        key = field_bytes(bytes([PROTOCOLS[one.protocol]]), one.host_port.to_bytes(2, "big"))
        value = field_bytes(target.address.packed, one.port.to_bytes(2, "big"))
        if one.host_ip == ANY_IPV4:
            anywhere.append(Element(key, value))
        else:
            addressed.append(Element(IPv4Address(one.host_ip).packed + key, value))
    return ("ports", anywhere), ("addressed-ports", addressed)


def _add_sets(work: Transaction, table: Table) -> None:
    work.add_set(table, "bridges", [_IFNAME])
    work.add_set(table, "internal", [_IFNAME])
    work.add_set(table, "pairs", [_IFNAME, _IFNAME])
    work.add_set(table, "subnets", [_IPV4], interval=True)
    work.add_set(table, "ports", [_PROTOCOL, _SERVICE], value=[_IPV4, _SERVICE])
    work.add_set(table, "addressed-ports", [_IPV4, _PROTOCOL, _SERVICE], value=[_IPV4, _SERVICE])


def _add_chains(work: Transaction, table: Table) -> None:
    work.add_chain(table, "raw", kind="filter", hook=nftables.NF_INET_PRE_ROUTING, priority=-300)
    from_bridge = [nftables.meta_iifname(), nftables.lookup("bridges")]
    loopback = [nftables.mask(_LOOPBACK_MASK), nftables.compare(_LOOPBACK), nftables.verdict(nftables.DROP)]
    work.add_rule(table, "raw", [*nftables.is_ipv4(), *from_bridge, nftables.ipv4_destination(), *loopback])
    work.add_rule(table, "raw", [*nftables.is_ipv4(), *from_bridge, nftables.ipv4_source(), *loopback])
    _add_forward(work, table)
    _add_nat(work, table)


def _add_forward(work: Transaction, table: Table) -> None:
    accept, drop = nftables.verdict(nftables.ACCEPT), nftables.verdict(nftables.DROP)
    work.add_chain(table, "forward", kind="filter", hook=nftables.NF_INET_FORWARD, priority=0)
    work.add_rule(table, "forward", [nftables.meta_iifname(), nftables.meta_oifname(_REGISTER + 4), nftables.lookup("pairs"), accept])
    work.add_rule(table, "forward", [nftables.meta_iifname(), nftables.lookup("internal"), drop])
    work.add_rule(table, "forward", [nftables.meta_oifname(), nftables.lookup("internal"), drop])
    answers = nftables.ct_has_state(nftables.CT_STATE_ESTABLISHED | nftables.CT_STATE_RELATED)
    work.add_rule(table, "forward", [nftables.meta_oifname(), nftables.lookup("bridges"), *answers, accept])
    published = nftables.ct_has_status(nftables.IPS_DST_NAT)
    work.add_rule(table, "forward", [nftables.meta_oifname(), nftables.lookup("bridges"), *published, accept])
    work.add_rule(table, "forward", [nftables.meta_oifname(), nftables.lookup("bridges"), drop])


def _add_nat(work: Transaction, table: Table) -> None:
    masquerade = nftables.masquerade()
    for name, hook in (("dnat", nftables.NF_INET_PRE_ROUTING), ("dnat-local", nftables.NF_INET_LOCAL_OUT)):
        work.add_chain(table, name, kind="nat", hook=hook, priority=-100)
        key = [nftables.meta_l4proto(_REGISTER + 1), nftables.destination_port(_REGISTER + 2)]
        result = _REGISTER + 4
        to_target = nftables.dnat_ipv4(result, result + 1)
        addressed = [nftables.ipv4_destination(), *key, nftables.lookup("addressed-ports", result=result), to_target]
        work.add_rule(table, name, [*nftables.is_ipv4(), *addressed])
        anywhere = [*nftables.destination_is_local(), *key, nftables.lookup("ports", _REGISTER + 1, result=result), to_target]
        work.add_rule(table, name, [*nftables.is_ipv4(), *anywhere])
    work.add_chain(table, "snat", kind="nat", hook=nftables.NF_INET_POST_ROUTING, priority=100)
    to_bridge = [nftables.meta_oifname(), nftables.lookup("bridges")]
    from_subnet = [nftables.ipv4_source(), nftables.lookup("subnets")]
    outside = [nftables.meta_oifname(), nftables.lookup("bridges", inverted=True)]
    from_loopback = [nftables.ipv4_source(), nftables.mask(_LOOPBACK_MASK), nftables.compare(_LOOPBACK)]
    work.add_rule(table, "snat", [*nftables.is_ipv4(), *from_subnet, *outside, masquerade])
    work.add_rule(table, "snat", [*nftables.is_ipv4(), *from_loopback, *to_bridge, masquerade])
    published = nftables.ct_has_status(nftables.IPS_DST_NAT)
    work.add_rule(table, "snat", [*nftables.is_ipv4(), *from_subnet, *to_bridge, *published, masquerade])


def _add_guard(work: Transaction, table: Table) -> None:
    drop = nftables.verdict(nftables.DROP)
    work.add_set(table, "guarded", [_IFNAME])
    work.add_set(table, "macs", [_IFNAME, _ETHER])
    work.add_set(table, "addresses", [_IFNAME, _IPV4])
    work.add_chain(table, "guard", kind="filter", hook=nftables.NF_BR_PRE_ROUTING, priority=-300)
    guarded = [nftables.meta_iifname(), nftables.lookup("guarded")]
    second = _REGISTER + 4  # after the 16 bytes of the port's name
    foreign_mac = [nftables.ether_source(second), nftables.lookup("macs", inverted=True), drop]
    work.add_rule(table, "guard", [*guarded, *foreign_mac])
    unknown = nftables.lookup("addresses", inverted=True)
    for ethertype, load in ((_ETH_P_IP, nftables.ipv4_source(second)), (_ETH_P_ARP, nftables.arp_source_ipv4(second))):
        work.add_rule(table, "guard", [*nftables.is_ethertype(ethertype), *guarded, load, unknown, drop])
    work.add_rule(table, "guard", [*nftables.is_ethertype(_ETH_P_IPV6), *guarded, drop])
