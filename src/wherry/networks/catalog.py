"""The networks of a daemon: their records, their bridges, and which addresses are taken on them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from ipaddress import IPv4Address

import msgspec

from wherry import ids
from wherry.errors import Conflict, Forbidden, InvalidRequest, NotFound
from wherry.netlink.request import Netlink
from wherry.networks import bridge, definition
from wherry.networks.ipam import Pool, choose_subnet, parse_address
from wherry.networks.record import EndpointRecord, NetworkRecord
from wherry.spec.docker.network import NetworkCreate
from wherry.spec.settings import Settings
from wherry.store.records import NameTaken, Records

log = logging.getLogger(__name__)

_KIND = "network"
_PREDEFINED = (("bridge", "bridge"), ("host", "host"), ("none", "null"))


class Catalog:
    """One network is defined or withdrawn at a time, which the caller sees to; everything else may be called from any thread."""

    def __init__(self, settings: Settings, records: Records) -> None:
        self._settings = settings
        self._records = records
        self._networks: dict[str, NetworkRecord] = {}
        self._pools: dict[str, Pool] = {}
        self._lock = threading.RLock()  # guards both mappings and the pools; never held during a call to the kernel

    # --- look up

    def load(self) -> None:
        self._networks = {ident: msgspec.json.decode(body, type=NetworkRecord) for ident, body in self._records.items(_KIND)}

    def all(self) -> Sequence[NetworkRecord]:
        with self._lock:
            return list(self._networks.values())

    def bridges(self) -> Sequence[NetworkRecord]:
        return [one for one in self.all() if one.is_bridge]

    def get(self, ident: str) -> NetworkRecord:
        """A network by its whole id.  Raises KeyError."""
        return self._networks[ident]

    def has(self, ident: str) -> bool:
        return ident in self._networks

    def resolve(self, reference: str) -> NetworkRecord:
        """A network by name, id or unique prefix of its id.  Raises NotFound, InvalidRequest."""
        ident = self._records.resolve(_KIND, reference)
        if ident is not None and ident in self._networks:
            return self._networks[ident]
        found = ids.matching_prefix(reference, list(self._networks)) if reference else []
        if not found:
            raise NotFound(f"network {reference} not found")
        if len(found) > 1:
            raise InvalidRequest(f"network {reference} is ambiguous ({len(found)} matches found on name)")
        return self._networks[found[0]]

    # --- define and withdraw

    def begin(self, host: Netlink, *, in_use: Collection[str]) -> None:
        """Define what every daemon has, and make all bridges and pools.  ``in_use``: ids of networks whose subnet must stay."""
        self._define_predefined(host, in_use=in_use)
        for network in self.bridges():
            self._pools[network.id] = network.pool()
            self._ensure_bridge(host, network)

    def define(self, body: NetworkCreate) -> NetworkRecord:
        """What a new network will be; nothing is made.  Raises InvalidRequest, Conflict, Forbidden, NotFound, NotSupported."""
        wanted = definition.check(body)
        if self._records.resolve(_KIND, body.name) is not None:
            raise Conflict(f"network with name {body.name} already exists")
        return self._complete(wanted, created=_now())

    def install(self, record: NetworkRecord, admit: Callable[[NetworkRecord], None]) -> None:
        """Make a network.  ``admit`` lets it through the firewall.  Raises Conflict, Forbidden; nothing is left then."""
        pool = record.pool()  # refuses addresses that lie outside before anything is made
        with ExitStack() as undo:
            self._store(record)
            undo.callback(self._unstore, [record])
            self._pools[record.id] = pool
            with Netlink() as host:
                try:
                    bridge.ensure(host, record, self._settings.tag)
                except FileExistsError as error:
                    raise Forbidden(f"cannot create network {record.id} ({record.bridge}): {error}") from error
                undo.callback(bridge.remove_by_name, record.bridge)
                admit(record)
            undo.pop_all()

    def uninstall(self, records: Sequence[NetworkRecord]) -> None:
        with Netlink() as host:
            bridge.remove_all(host, [one.bridge for one in records])
        self._unstore(records)

    # --- addresses

    def allocate(self, network: NetworkRecord, asked: str) -> tuple[IPv4Address, int]:
        """A free address, or the one ``asked`` for, and the length of its prefix.  Raises NotFound, Forbidden, InvalidRequest."""
        with self._lock:
            pool = self._pools.get(network.id)
            if pool is None:
                raise NotFound(f"network {network.name} not found")
            if asked:
                address = parse_address(asked)
                pool.reserve(address)
            else:
                address = pool.allocate()
            return address, pool.subnet.prefixlen

    def is_full(self, network_id: str) -> bool:
        """Whether no address is left to give out."""
        with self._lock:
            pool = self._pools.get(network_id)
            return pool is not None and pool.is_full

    def reserve(self, endpoint: EndpointRecord) -> None:
        """An address that a container has already.  Raises Forbidden, InvalidRequest."""
        self._pools[endpoint.network_id].reserve(IPv4Address(endpoint.address))

    def free(self, endpoints: Iterable[EndpointRecord]) -> None:
        with self._lock:
            for one in endpoints:
                pool = self._pools.get(one.network_id)
                if pool is not None:
                    pool.free(IPv4Address(one.address))

    # --- private

    def _define_predefined(self, host: Netlink, *, in_use: Collection[str]) -> None:
        by_name = {one.name: one for one in self._networks.values() if one.predefined}
        for name, driver in _PREDEFINED:
            known = by_name.get(name)
            if known is not None and not (known.is_default and known.id not in in_use and self._clashes(host, known)):
                continue
            ident = known.id if known is not None else ids.new_id()
            wanted = definition.predefined(
                name, driver, ident, f"{self._settings.tag}-0" if self._settings.tag != "wh" else "wherry0", _now()
            )
            self._networks.pop(ident, None)
            record = self._with_subnet(wanted, host) if wanted.is_bridge else wanted
            if known is None:  # the name may be that of one whose record is lost
                self._records.release(_KIND, name)
            self._store(record)

    def _clashes(self, host: Netlink, network: NetworkRecord) -> bool:
        known = self.bridges()
        used = bridge.host_networks(host, without=[one.bridge for one in known])
        return any(network.ipv4.overlaps(one) for one in used)

    def _ensure_bridge(self, host: Netlink, network: NetworkRecord) -> None:
        try:
            bridge.ensure(host, network, self._settings.tag)
        except OSError as error:
            # One broken network must not keep the daemon down; attaching to it will say what is wrong.
            log.warning("network %s: %s", network.name, error)

    def _complete(self, wanted: NetworkRecord, *, created: str) -> NetworkRecord:
        ident = ids.new_id()
        name = wanted.bridge or f"{self._settings.tag}-{ident[:8]}"
        for other in self.bridges():
            if other.bridge == name:
                raise Forbidden(
                    f"cannot create network {ident} ({name}): conflicts with network {other.id} ({name}): networks have same bridge name"
                )
        record = msgspec.structs.replace(wanted, id=ident, bridge=name, created=created)
        if record.subnet:
            if any(record.ipv4.overlaps(other.ipv4) for other in self.bridges()):
                raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
            return definition.with_gateway(record)
        with Netlink() as host:
            return self._with_subnet(record, host)

    def _with_subnet(self, record: NetworkRecord, host: Netlink) -> NetworkRecord:
        ours = [one.ipv4 for one in self.bridges()]
        others = bridge.host_networks(host, without=[record.bridge], known=ours)
        subnet = choose_subnet(self._settings.address_pools, [*ours, *others])
        return definition.with_gateway(msgspec.structs.replace(record, subnet=str(subnet)))

    def _store(self, record: NetworkRecord) -> None:
        try:
            with self._records.transaction():
                self._records.claim(_KIND, record.name, record.id)
                self._records.put(_KIND, record.id, msgspec.json.encode(record))
        except NameTaken:
            raise Conflict(f"network with name {record.name} already exists") from None
        with self._lock:
            self._networks[record.id] = record

    def _unstore(self, records: Sequence[NetworkRecord]) -> None:
        with self._records.transaction():
            for record in records:
                self._records.release(_KIND, record.name)
                self._records.delete(_KIND, record.id)
        with self._lock:
            for record in records:
                self._networks.pop(record.id, None)
                self._pools.pop(record.id, None)


def _now() -> str:
    nanoseconds = time.time_ns()
    seconds = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    fraction = f"{nanoseconds % 1_000_000_000:09d}".rstrip("0")
    return seconds.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
