"""Networks and the sandboxes on them: create, attach, release.  Blocking and quick; safe to call from several threads.

``start`` once, in the host's network namespace, with the containers that still run; then ``adopt`` each of those. A container's life:
``attach`` before its first process, ``release`` after its last. What a container holds is in the database before the kernel is asked for
it, so that ``start`` finds it again after a crash, or sweeps it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network

import msgspec

from wherry import ids
from wherry.errors import Conflict, Forbidden, Internal, InvalidRequest, NotFound
from wherry.netlink import conntrack
from wherry.netlink.request import Netlink
from wherry.networks import bridge, definition, files, namespace
from wherry.networks.firewall import BridgeFacts, Firewall, PortFacts, Target
from wherry.networks.ipam import Pool, choose_subnet, parse_address
from wherry.networks.ledger import Ledger
from wherry.networks.names import Directory, Member, View
from wherry.networks.namespace import Namespace
from wherry.networks.ports import ANY_IPV4, Held, Ports
from wherry.networks.record import EndpointRecord, NetworkRecord, PublicationRecord, SandboxRecord
from wherry.networks.resolver import Resolver
from wherry.networks.sandbox import Sandbox, SandboxRequest, settings
from wherry.spec.docker.network import EndpointSettings, Network, NetworkContainer, NetworkCreate
from wherry.spec.launch import Forward
from wherry.spec.settings import Settings
from wherry.store.records import NameTaken, Records

log = logging.getLogger(__name__)

_KIND = "network"
_SPARE_NAMESPACES = 2
_LINGER_S = 0.05
_PREDEFINED = (("bridge", "bridge"), ("host", "host"), ("none", "null"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Departure:
    """Interfaces to delete; ``urgent``: somebody waits for ``done``. Without either it only asks for spare namespaces."""

    endpoints: Sequence[EndpointRecord]
    urgent: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Networks:
    """All networks of a daemon; owns the bridges, the firewall tables, the ports and the resolver."""

    def __init__(self, settings: Settings, records: Records, *, resolv_conf_path: str = "/etc/resolv.conf") -> None:
        self._settings = settings
        self._records = records
        self._resolv_conf_path = resolv_conf_path
        self._networks: dict[str, NetworkRecord] = {}
        self._pools: dict[str, Pool] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._lock = threading.RLock()  # guards the three mappings and the pools; never held during a call to the kernel
        self._creation = threading.Lock()  # one network is created or removed at a time
        self._ports = Ports()
        self._directory = Directory()
        self._resolver = Resolver(self._directory)
        self._firewall = Firewall(settings.tag, self._firewall_facts, docker_user=settings.docker_user)
        self._ledger = Ledger(os.path.join(settings.run_root, "sandboxes"))
        self._spare: queue.SimpleQueue[Namespace] = queue.SimpleQueue()
        self._departed: queue.SimpleQueue[_Departure | None] = queue.SimpleQueue()
        self._reaper: threading.Thread | None = None

    # --- life of the daemon

    def start(self, live: Iterable[str] = ()) -> None:
        """Make what the records say and sweep what nothing accounts for.  ``live``: ids of containers whose processes still run."""
        running = set(live)
        _forward_packets()
        self._networks = {ident: msgspec.json.decode(body, type=NetworkRecord) for ident, body in self._records.items(_KIND)}
        sandboxes = self._load_sandboxes(running)
        with Netlink() as host:
            # First: a bridge of a data root that was erased stands where a new one is to be made.
            for name in bridge.leftovers(host, self._settings.tag, networks=self._networks, containers=running):
                log.info("removing interface %s that nothing accounts for", name)
                bridge.remove(host, name)
            self._define_predefined(host, in_use={one.network_id for record in sandboxes for one in record.endpoints})
            for network in self._bridges():
                self._pools[network.id] = network.pool()
                self._ensure_bridge(host, network)
            for record in sandboxes:
                self._restore(record)
        self._firewall.build()
        self._firewall.watch()
        for warning in self._firewall.warnings():
            log.warning("%s", warning)
        self._resolver.start()
        self._reaper = threading.Thread(target=self._reap, name="links", daemon=True)
        self._reaper.start()

    def close(self) -> None:
        """Stop threads and close descriptors; containers run on with their interfaces and ports. Twice is success."""
        self._resolver.close()
        if self._reaper is not None:
            self._departed.put(None)
            self._reaper.join(timeout=30)
            self._reaper = None
        with suppress(queue.Empty):
            while True:
                self._spare.get_nowait().close()
        for sandbox in self._sandboxes.values():
            sandbox.close()
        self._firewall.close()

    def destroy(self) -> None:
        """Take everything of this daemon out of the kernel: tables and bridges. For uninstalling and tests; no container may run."""
        self._firewall.destroy()
        self._firewall.close()
        with Netlink() as host:
            for name in bridge.leftovers(host, self._settings.tag, networks=(), containers=()):
                bridge.remove(host, name)

    # --- networks

    def create(self, body: NetworkCreate) -> Network:
        """Create a network.  Raises InvalidRequest, Conflict, Forbidden, NotFound, NotSupported in Docker's words."""
        with self._creation:
            wanted = definition.check(body)
            if self._records.resolve(_KIND, body.name) is not None:
                raise Conflict(f"network with name {body.name} already exists")
            record = self._define(wanted, created=_now())
            self._install(record)
            return self._shown(record)

    def remove(self, reference: str) -> NetworkRecord:
        """Remove a network without containers; returns what it was.  Raises NotFound, Forbidden."""
        with self._creation:
            record = self.resolve(reference)
            if record.predefined:
                raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
            with self._lock:
                members = [f'name:"{sandbox.record.name}" id:"{one.id[:12]}"' for sandbox, one in self._members(record.id)]
            if members:
                listed = ", ".join(members)
                raise Forbidden(f"error while removing network: network {record.name} has active endpoints ({listed})")
            self._uninstall(record)
            return record

    def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> Sequence[NetworkRecord]:
        """Remove the networks that no container is on.  ``filters``: until, label, label!."""
        removed: list[NetworkRecord] = []
        for record in self.prunable(filters):
            try:
                removed.append(self.remove(record.id))
            except (Forbidden, NotFound):
                continue
        return removed

    def prunable(self, filters: Mapping[str, Sequence[str]] | None = None) -> Sequence[NetworkRecord]:
        """What `prune` removes."""
        chosen = definition.prune_filter(filters or {})
        with self._lock:
            return [
                record
                for record in self._networks.values()
                if not record.predefined and chosen(record) and not any(True for _ in self._members(record.id))
            ]

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> Sequence[Network]:
        """Networks that match, without their containers.  Raises InvalidRequest for an unknown filter."""
        with self._lock:
            used = {one.network_id for sandbox in self._sandboxes.values() for one in sandbox.record.endpoints}
            chosen = definition.list_filter(filters or {}, used)
            return [definition.shown(record, {}) for record in self._networks.values() if chosen(record)]

    def inspect(self, reference: str) -> Network:
        return self._shown(self.resolve(reference))

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

    def warnings(self) -> Sequence[str]:
        """What keeps networks from working fully, for ``info``: no nf_tables, or another program that refuses to forward."""
        return self._firewall.warnings()

    def gateway(self) -> str:
        """What ``host-gateway`` means: the default bridge's address."""
        return next(one.gateway for one in self._networks.values() if one.is_default)

    # --- containers

    def check(self, mode: str, networks: Mapping[str, EndpointSettings]) -> None:
        """Refuse at create what could never be attached, for ``SandboxRequest``'s ``mode`` and ``networks``; takes nothing.

        A network that does not exist may yet be made before the container starts.  Raises InvalidRequest, NotSupported.
        """
        try:
            asked = self._asked(mode, networks)
        except NotFound:
            return
        for network, wish in asked:
            definition.check_endpoint(network, wish)

    def attach(self, request: SandboxRequest) -> Sandbox:
        """Give a container its network: namespace, interfaces, names, ports.  Raises; nothing is left then."""
        sandbox = self.prepare(request)
        try:
            self.plug(sandbox)
        except BaseException:
            self.release(request.container_id)
            raise
        return sandbox

    def prepare(self, request: SandboxRequest) -> Sandbox:
        """All of `attach` but what takes the kernel long: the namespace, addresses and ports are the container's when this returns.

        Raises; nothing is left then.
        """
        if request.mode == "host":
            return self._register(Sandbox(container_id=request.container_id, record=_empty(request)))
        if request.mode.startswith("container:"):
            assert request.join_pid is not None
            joined = namespace.enter(namespace.of_process(request.join_pid))
            return self._register(Sandbox(container_id=request.container_id, record=_empty(request), namespace=joined))
        if request.mode == "none":
            return self._register(Sandbox(container_id=request.container_id, record=_empty(request), namespace=self._new_namespace()))
        return self._prepare(request, self._asked(request.mode, request.networks))

    def plug(self, sandbox: Sandbox) -> None:
        """The rest of `attach`: interfaces, rules, names.  Raises OSError or EngineError; `release` must follow then."""
        record, inner = sandbox.record, sandbox.namespace
        if sandbox.plugged or inner is None:
            return
        with ExitStack() as undo:
            gateway = _gateway_endpoint(record.endpoints)
            for endpoint in record.endpoints:
                self._plug(inner, sandbox.container_id, endpoint, default_route=endpoint is gateway, undo=undo)
            self._firewall.add(record.ports(), record.targets())
            undo.callback(self._withdraw_rules, record)
            if sandbox.internal_resolver:
                undo.callback(self._withdraw_names, record)
                self._serve_names(sandbox)
            self._publish_names(sandbox)
            sandbox.plugged = True
            undo.pop_all()

    def adopt(self, container_id: str, pid: int) -> Sandbox:
        """The sandbox of a container that outlived the last daemon.  ``pid``: its first process."""
        with self._lock:
            sandbox = self._sandboxes.get(container_id)
            if sandbox is None:
                sandbox = Sandbox(container_id=container_id, record=SandboxRecord(container_id=container_id, name=""))
                self._sandboxes[container_id] = sandbox
        fd = namespace.of_process(pid)
        if os.fstat(fd).st_ino == os.stat("/proc/thread-self/ns/net").st_ino:
            os.close(fd)
            return sandbox
        sandbox.namespace = namespace.enter(fd)
        if sandbox.record.endpoints:
            self._publish_names(sandbox)
            self._serve_names(sandbox)
        return sandbox

    def sandbox(self, container_id: str) -> Sandbox | None:
        """What a running container has; None for one that does not run."""
        return self._sandboxes.get(container_id)

    def connect(
        self,
        container_id: str,
        reference: str,
        wish: EndpointSettings | None = None,
        *,
        guarded: bool = True,
    ) -> EndpointSettings:
        """Connect a running container to a further network.  Raises NotFound, Forbidden, InvalidRequest."""
        network = self.resolve(reference)
        sandbox = self._running(container_id)
        definition.check_connect(network, [self._networks[one.network_id] for one in sandbox.record.endpoints], sandbox.record.name)
        if sandbox.namespace is None or network.driver == "host":
            raise Forbidden("cannot connect container to host network - container must be created in host network mode")
        definition.check_wish(network, wish or EndpointSettings())
        before = _gateway_endpoint(sandbox.record.endpoints)
        with ExitStack() as undo:
            endpoint = self._allocate(
                container_id, sandbox.record.name, network, wish or EndpointSettings(), sandbox.record, guarded=guarded
            )
            undo.callback(self._free, [endpoint])
            grown = msgspec.structs.replace(sandbox.record, endpoints=[*sandbox.record.endpoints, endpoint])
            self._keep(grown)
            undo.callback(self._keep, sandbox.record)
            self._plug(sandbox.namespace, container_id, endpoint, default_route=False, undo=undo)
            after = _gateway_endpoint(grown.endpoints)
            if after != before:
                bridge.move_default_route(sandbox.namespace, before, after)
            self._firewall.add(_guards([endpoint]), [])
            sandbox.record = grown
            undo.pop_all()
        self._publish_names(sandbox)
        self._serve_names(sandbox)
        return settings(endpoint)

    def disconnect(self, container_id: str, reference: str) -> None:
        """Disconnect a running container from a network.  Raises NotFound, Forbidden."""
        network = self.resolve(reference)
        sandbox = self._running(container_id)
        gone = next((one for one in sandbox.record.endpoints if one.network_id == network.id), None)
        if gone is None:
            raise Forbidden(f"container {container_id} is not connected to network {network.name}")
        assert sandbox.namespace is not None
        before = _gateway_endpoint(sandbox.record.endpoints)
        left = [one for one in sandbox.record.endpoints if one is not gone]
        publications = sandbox.record.publications if sandbox.record.target != gone.address else []
        targets = [] if publications else sandbox.record.targets()
        self._firewall.remove(_guards([gone]), targets)
        self._ports.release([one.publication for one in targets])
        shrunk = msgspec.structs.replace(sandbox.record, endpoints=left, publications=publications)
        sandbox.record = shrunk
        self._directory.leave(network.id, container_id)
        self._publish_names(sandbox)
        self._depart([gone], urgent=True).wait(timeout=10)
        after = _gateway_endpoint(left)
        if after is not None and after != before:
            bridge.move_default_route(sandbox.namespace, None, after)
        self._keep(shrunk)

    def rename(self, container_id: str, name: str) -> None:
        """A running container has another name now."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            return
        old = sandbox.record.name
        endpoints = [_renamed(one, old, name) for one in sandbox.record.endpoints]
        sandbox.record = msgspec.structs.replace(sandbox.record, name=name, endpoints=endpoints)
        if endpoints:
            self._keep(sandbox.record)
        self._directory.rename(container_id, old, name)

    def release(self, container_id: str) -> None:
        """Take back all that a container held; one that holds nothing is success.

        Its interfaces vanish, and its addresses become free, a moment later: ``settle`` waits for it.
        """
        with self._lock:
            sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is None:
            return
        record = sandbox.record
        if sandbox.internal_resolver:
            self._withdraw_names(record)
        sandbox.close()
        if record.endpoints:
            if sandbox.plugged:
                self._withdraw_rules(record)
            self._withdraw_ports(record)
            self._depart(record.endpoints)
            self._ledger.forget(container_id)

    def settle(self) -> None:
        """Wait until what was released is gone from the kernel."""
        self._depart([], urgent=True).wait(timeout=30)

    # --- files in the container

    def resolv_conf(self, sandbox: Sandbox, *, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()) -> str:
        """The container's resolv.conf; with the host's network and no wishes it is the host's own."""
        override = files.ResolverFile(nameservers=tuple(dns), search=tuple(search), options=tuple(options))
        text = self._host_resolv_conf()
        if sandbox.namespace is None and not (dns or search or options):
            return text
        host = files.parse_resolv_conf(text)
        return files.internal_resolv_conf(host, override) if sandbox.internal_resolver else files.resolv_conf(host, override)

    # --- private: start

    def _load_sandboxes(self, running: Collection[str]) -> Sequence[SandboxRecord]:
        found: list[SandboxRecord] = []
        for record in self._ledger.load():
            if record.container_id in running and all(one.network_id in self._networks for one in record.endpoints):
                found.append(record)
            else:
                self._ledger.forget(record.container_id)
        return found

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
            self._store(record)

    def _clashes(self, host: Netlink, network: NetworkRecord) -> bool:
        subnet = IPv4Network(network.subnet)
        return any(subnet.overlaps(one) for one in bridge.host_networks(host, without=[one.bridge for one in self._bridges()]))

    def _ensure_bridge(self, host: Netlink, network: NetworkRecord) -> None:
        try:
            bridge.ensure(host, network, self._settings.tag)
        except OSError as error:
            # One broken network must not keep the daemon down; attaching to it will say what is wrong.
            log.warning("network %s: %s", network.name, error)

    def _restore(self, record: SandboxRecord) -> None:
        for one in record.endpoints:
            try:
                self._pools[one.network_id].reserve(IPv4Address(one.address))
            except (Forbidden, InvalidRequest) as error:
                log.warning("container %s: %s: %s", record.name, one.address, error)
        self._ports.restore(one.publication() for one in record.publications)
        self._sandboxes[record.container_id] = Sandbox(container_id=record.container_id, record=record)

    # --- private: networks

    def _bridges(self) -> Sequence[NetworkRecord]:
        return [one for one in self._networks.values() if one.is_bridge]

    def _define(self, wanted: NetworkRecord, *, created: str) -> NetworkRecord:
        ident = ids.new_id()
        name = wanted.bridge or f"{self._settings.tag}-{ident[:8]}"
        for other in self._bridges():
            if other.bridge == name:
                raise Forbidden(
                    f"cannot create network {ident} ({name}): conflicts with network {other.id} ({name}): networks have same bridge name"
                )
        record = msgspec.structs.replace(wanted, id=ident, bridge=name, created=created)
        if record.subnet:
            if any(IPv4Network(record.subnet).overlaps(IPv4Network(other.subnet)) for other in self._bridges()):
                raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
            return definition.with_gateway(record)
        with Netlink() as host:
            return self._with_subnet(record, host)

    def _with_subnet(self, record: NetworkRecord, host: Netlink) -> NetworkRecord:
        used = [IPv4Network(one.subnet) for one in self._bridges()] + bridge.host_networks(host, without=[record.bridge])
        subnet = choose_subnet(self._settings.address_pools, used)
        return definition.with_gateway(msgspec.structs.replace(record, subnet=str(subnet)))

    def _install(self, record: NetworkRecord) -> None:
        pool = record.pool()  # refuses addresses that lie outside before anything is made
        with ExitStack() as undo:
            self._store(record)
            undo.callback(self._unstore, record)
            self._pools[record.id] = pool
            with Netlink() as host:
                try:
                    bridge.ensure(host, record, self._settings.tag)
                except FileExistsError as error:
                    raise Forbidden(f"cannot create network {record.id} ({record.bridge}): {error}") from error
                undo.callback(_remove_link, record.bridge)
                self._firewall.add_network(record.facts())
            undo.pop_all()

    def _uninstall(self, record: NetworkRecord) -> None:
        self.settle()
        self._firewall.remove_network(record.facts())
        _remove_link(record.bridge)
        self._unstore(record)

    def _store(self, record: NetworkRecord) -> None:
        try:
            with self._records.transaction():
                self._records.claim(_KIND, record.name, record.id)
                self._records.put(_KIND, record.id, msgspec.json.encode(record))
        except NameTaken:
            raise Conflict(f"network with name {record.name} already exists") from None
        with self._lock:
            self._networks[record.id] = record

    def _unstore(self, record: NetworkRecord) -> None:
        with self._records.transaction():
            self._records.release(_KIND, record.name)
            self._records.delete(_KIND, record.id)
        with self._lock:
            self._networks.pop(record.id, None)
            self._pools.pop(record.id, None)

    def _members(self, network_id: str) -> Sequence[tuple[Sandbox, EndpointRecord]]:
        return [
            (sandbox, one) for sandbox in list(self._sandboxes.values()) for one in sandbox.record.endpoints if one.network_id == network_id
        ]

    def _shown(self, record: NetworkRecord) -> Network:
        containers = {
            sandbox.container_id: NetworkContainer(
                name=sandbox.record.name, endpoint_id=one.id, mac_address=one.mac, ipv4_address=f"{one.address}/{one.prefix}"
            )
            for sandbox, one in self._members(record.id)
        }
        return definition.shown(record, containers)

    def _firewall_facts(self) -> tuple[Sequence[BridgeFacts], Sequence[PortFacts], Sequence[Target]]:
        with self._lock:
            records = [one.record for one in self._sandboxes.values()]
            networks = [one.facts() for one in self._bridges()]
        return networks, [port for one in records for port in one.ports()], [target for one in records for target in one.targets()]

    # --- private: attach

    def _asked(self, mode: str, networks: Mapping[str, EndpointSettings]) -> Sequence[tuple[NetworkRecord, EndpointSettings]]:
        if mode in ("host", "none") or mode.startswith("container:"):
            return []
        wishes = networks or {mode: EndpointSettings()}
        found = [(self.resolve("bridge" if name == "default" else name), wish or EndpointSettings()) for name, wish in wishes.items()]
        for network, _ in found:
            if not network.is_bridge:
                raise InvalidRequest("cannot attach both user-defined and non-user-defined network-modes")
        return found

    def _prepare(self, request: SandboxRequest, asked: Sequence[tuple[NetworkRecord, EndpointSettings]]) -> Sandbox:
        for network, wish in asked:
            definition.check_endpoint(network, wish)
        with ExitStack() as undo:
            record = _empty(request)
            for network, wish in asked:
                endpoint = self._allocate(request.container_id, request.name, network, wish, record, guarded=request.guarded)
                undo.callback(self._free, [endpoint])
                record = msgspec.structs.replace(record, endpoints=[*record.endpoints, endpoint])
            held = self._publish(request, record)
            undo.callback(self._unpublish, held)
            record = _with_ports(record, held)
            self._keep(record)
            undo.callback(self._ledger.forget, request.container_id)
            inner = self._new_namespace()
            undo.callback(inner.close)
            sandbox = self._register(self._sandbox(request, record, inner, held))
            undo.pop_all()
        return sandbox

    def _sandbox(self, request: SandboxRequest, record: SandboxRecord, inner: Namespace, held: Sequence[Held]) -> Sandbox:
        named = any(not self._networks[one.network_id].is_default for one in record.endpoints)
        forwards = [
            (one.holder, Forward(protocol=one.publication.protocol, target_ip=record.target, target_port=one.publication.port))
            for one in held
        ]
        return Sandbox(
            container_id=request.container_id,
            record=record,
            namespace=inner,
            forwards=forwards,
            internal_resolver=named,
            plugged=not record.endpoints,
        )

    def _allocate(
        self, container_id: str, name: str, network: NetworkRecord, wish: EndpointSettings, record: SandboxRecord, *, guarded: bool
    ) -> EndpointRecord:
        asked = wish.ipam_config.ipv4_address if wish.ipam_config is not None else ""
        with self._lock:
            pool = self._pools.get(network.id)
            if pool is None:
                raise NotFound(f"network {network.name} not found")
            if asked:
                address = parse_address(asked)
                pool.reserve(address)
            else:
                address = pool.allocate()
        ident = ids.new_id()
        aliases = list(wish.aliases or [])
        return EndpointRecord(
            id=ident,
            network_id=network.id,
            network=network.name,
            interface=_next_interface(record.endpoints),
            port=f"{self._settings.tag}v{ident[:8]}",
            mac=wish.mac_address.lower().replace("-", ":") or bridge.mac_of(str(address)).hex(":"),
            address=str(address),
            prefix=pool.subnet.prefixlen,
            gateway=network.gateway,
            wanted_address=asked,
            wanted_mac=wish.mac_address,
            aliases=aliases,
            links=list(wish.links or []),
            driver_options=dict(wish.driver_opts or {}),
            names=[] if network.is_default else _names(name, *aliases, ids.short(container_id), record.hostname),
            priority=wish.gw_priority,
            internal=network.internal,
            guarded=guarded,
        )

    def _free(self, endpoints: Iterable[EndpointRecord]) -> None:
        with self._lock:
            for one in endpoints:
                pool = self._pools.get(one.network_id)
                if pool is not None:
                    pool.free(IPv4Address(one.address))

    def _publish(self, request: SandboxRequest, record: SandboxRecord) -> Sequence[Held]:
        target = _gateway_endpoint(record.endpoints)
        if target is None or not request.bindings:
            return []
        default_ip = self._networks[target.network_id].options.get(definition.OPTION_HOST_BINDING, "")
        if default_ip in ("", ANY_IPV4):
            default_ip = self._settings.default_ip
        try:
            return self._ports.publish(request.bindings, container_ip=target.address, default_ip=default_ip)
        except Internal as error:
            raise Internal(f"driver failed programming external connectivity on endpoint {request.name} ({target.id}): {error}") from error

    def _unpublish(self, held: Sequence[Held]) -> None:
        self._ports.release([one.publication for one in held])
        for one in held:
            one.holder.close()

    def _plug(self, inner: Namespace, container_id: str, endpoint: EndpointRecord, *, default_route: bool, undo: ExitStack) -> None:
        network = self._networks[endpoint.network_id]
        label = endpoint.label(self._settings.tag, container_id)
        with Netlink() as host:
            try:
                bridge.plug(host, inner, endpoint, network=network, label=label, default_route=default_route)
            except OSError as error:
                raise Internal(f"failed to connect to network {network.name}: {error}") from error
        undo.callback(_remove_link, endpoint.port)

    def _serve_names(self, sandbox: Sandbox) -> None:
        """Answer at 127.0.0.11 once the container is on a user-defined network."""
        named = any(not self._networks[one.network_id].is_default for one in sandbox.record.endpoints)
        if sandbox.namespace is None or not named or (sandbox.internal_resolver and self._directory.view(sandbox.container_id) is not None):
            return
        udp, tcp = namespace.inside(sandbox.namespace.fd, lambda: namespace.resolver_sockets(files.EMBEDDED_RESOLVER))
        self._resolver.serve(sandbox.container_id, udp, tcp)
        sandbox.internal_resolver = True

    def _publish_names(self, sandbox: Sandbox) -> None:
        record = sandbox.record
        named = [one for one in record.endpoints if one.names]
        for one in named:
            member = Member(container_id=record.container_id, network=one.network, names=tuple(one.names), address=IPv4Address(one.address))
            self._directory.join(one.network_id, member)
        if not named and not sandbox.internal_resolver:
            return
        open_networks = any(not one.internal for one in record.endpoints)
        servers = tuple(record.dns) or files.parse_resolv_conf(self._host_resolv_conf()).nameservers
        view = View(networks=tuple(one.network_id for one in named), links=record.links, upstream=servers if open_networks else ())
        self._directory.show(record.container_id, view)

    def _withdraw_names(self, record: SandboxRecord) -> None:
        for endpoint in record.endpoints:
            self._directory.leave(endpoint.network_id, record.container_id)
        self._directory.hide(record.container_id)
        self._resolver.forget(record.container_id)

    def _register(self, sandbox: Sandbox) -> Sandbox:
        with self._lock:
            self._sandboxes[sandbox.container_id] = sandbox
        return sandbox

    def _running(self, container_id: str) -> Sandbox:
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            raise Conflict(f"container {container_id} is not running")
        return sandbox

    def _keep(self, record: SandboxRecord) -> None:
        self._ledger.keep(record)

    # --- private: release

    def _withdraw_ports(self, record: SandboxRecord) -> None:
        self._ports.release(one.publication() for one in record.publications)
        if any(one.protocol == "udp" for one in record.publications):
            # A UDP client that goes on sending would keep its flow, and so the dead address, for ever.
            try:
                conntrack.forget(IPv4Address(record.target))
            except OSError as error:
                log.warning("container %s: flows: %s", record.name, error)

    def _withdraw_rules(self, record: SandboxRecord) -> None:
        try:
            self._firewall.remove(record.ports(), record.targets())
        except OSError as error:
            log.warning("container %s: rules: %s", record.name, error)

    def _depart(self, endpoints: Sequence[EndpointRecord], *, urgent: bool = False) -> threading.Event:
        """Hand interfaces to the reaper: deleting one takes the kernel far longer than all the rest of a release."""
        departure = _Departure(endpoints=endpoints, urgent=urgent)
        if self._reaper is None:
            self._delete_links(endpoints)
            departure.done.set()
        else:
            self._departed.put(departure)
        return departure.done

    def _new_namespace(self) -> Namespace:
        """A spare namespace, or a fresh one; the thread that deletes interfaces makes the next."""
        try:
            return self._spare.get_nowait()
        except queue.Empty:
            return namespace.create()
        finally:
            if self._reaper is not None:
                self._departed.put(_Departure(endpoints=()))

    def _reap(self) -> None:
        self._fill_spare()
        while (item := self._departed.get()) is not None:
            if not item.endpoints and not item.urgent:
                self._fill_spare()
                continue
            items = self._gather(item)
            try:
                self._delete_links([one for departure in items for one in departure.endpoints])
            except OSError as error:
                log.warning("interfaces: %s", error)
            for departure in items:
                departure.done.set()
            self._fill_spare()

    def _gather(self, first: _Departure) -> Sequence[_Departure]:
        """More that departs at about the same time, unless somebody waits: the kernel deletes ten interfaces as quickly as one, and
        nothing else can be configured meanwhile."""
        items = [first]
        deadline = time.monotonic() + _LINGER_S
        while not items[-1].urgent:
            try:
                further = self._departed.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if further is None:
                self._departed.put(None)  # the end, after this work
                break
            items.append(further)
        return items

    def _fill_spare(self) -> None:
        try:
            while self._departed.empty() and self._spare.qsize() < _SPARE_NAMESPACES:
                self._spare.put(namespace.create())
        except (OSError, RuntimeError) as error:
            log.warning("spare network namespace: %s", error)

    def _delete_links(self, endpoints: Sequence[EndpointRecord]) -> None:
        try:
            with Netlink() as host:
                bridge.remove_all(host, [one.port for one in endpoints])
        finally:
            self._free(endpoints)

    def _host_resolv_conf(self) -> str:
        try:
            with open(self._resolv_conf_path) as source:
                return source.read()
        except OSError:
            return ""


def _names(*words: str) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]


def _empty(request: SandboxRequest) -> SandboxRecord:
    links = {link.alias: link.name for link in request.links}
    return SandboxRecord(
        container_id=request.container_id, name=request.name, hostname=request.hostname, dns=list(request.dns), links=links
    )


def _with_ports(record: SandboxRecord, held: Sequence[Held]) -> SandboxRecord:
    target = _gateway_endpoint(record.endpoints)
    found = [
        PublicationRecord(protocol=one.protocol, port=one.port, host_ip=one.host_ip, host_port=one.host_port)
        for one in (item.publication for item in held)
    ]
    return msgspec.structs.replace(record, publications=found, target=target.address if target is not None else "")


def _gateway_endpoint(endpoints: Sequence[EndpointRecord]) -> EndpointRecord | None:
    """The one that leads outside: the greatest priority, then the first by network name, as Docker chooses."""
    return min((one for one in endpoints if not one.internal), key=lambda one: (-one.priority, one.network), default=None)


def _next_interface(endpoints: Sequence[EndpointRecord]) -> str:
    taken = {one.interface for one in endpoints}
    return next(name for name in (f"eth{number}" for number in range(len(taken) + 1)) if name not in taken)


def _guards(endpoints: Sequence[EndpointRecord]) -> Sequence[PortFacts]:
    return [one.facts() for one in endpoints if one.guarded]


def _renamed(endpoint: EndpointRecord, old: str, new: str) -> EndpointRecord:
    if not endpoint.names:
        return endpoint
    return msgspec.structs.replace(endpoint, names=[new, *(name for name in endpoint.names if name not in (old, new))])


def _remove_link(name: str) -> None:
    with Netlink() as host:
        bridge.remove(host, name)


def _forward_packets() -> None:
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


def _now() -> str:
    nanoseconds = time.time_ns()
    seconds = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    fraction = f"{nanoseconds % 1_000_000_000:09d}".rstrip("0")
    return seconds.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
