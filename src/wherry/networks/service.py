"""Networks and the sandboxes on them: create, attach, release.  Blocking and quick; safe to call from several threads.

``start`` once, in the host's network namespace, with the containers that still run; then ``adopt`` each of those. A container's life:
``attach`` before its first process, ``release`` after its last. What a container holds is in the database before the kernel is asked for
it, so that ``start`` finds it again after a crash, or sweeps it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

import msgspec

from wherry import ids
from wherry.errors import Conflict, Forbidden, Internal, InvalidRequest, NotFound
from wherry.netlink import conntrack
from wherry.netlink.request import Netlink
from wherry.networks import bridge, definition, interfaces, namespace
from wherry.networks.catalog import Catalog
from wherry.networks.departures import Departures
from wherry.networks.endpoints import empty, gateway_endpoint, guards, names_of, new_endpoint, renamed, with_ports
from wherry.networks.firewall import BridgeFacts, Firewall, PortFacts, Target
from wherry.networks.ledger import Ledger
from wherry.networks.namespace import Namespace
from wherry.networks.naming import Naming
from wherry.networks.ports import ANY_IPV4, Held, Ports
from wherry.networks.record import EndpointRecord, NetworkRecord, SandboxRecord
from wherry.networks.sandbox import Sandbox, SandboxRequest, settings
from wherry.networks.spares import Spares
from wherry.spec.docker.network import EndpointSettings, Network, NetworkContainer, NetworkCreate
from wherry.spec.launch import Forward
from wherry.spec.settings import Settings
from wherry.store.records import Records

log = logging.getLogger(__name__)


class Networks:
    """All networks of a daemon; owns the bridges, the firewall tables, the ports and the resolver."""

    def __init__(self, settings: Settings, records: Records, *, resolv_conf_path: str = "/etc/resolv.conf") -> None:
        self._settings = settings
        self._catalog = Catalog(settings, records)
        self._sandboxes: dict[str, Sandbox] = {}
        self._lock = threading.RLock()  # guards the sandboxes; never held during a call to the kernel
        self._creation = threading.Lock()  # one network is created or removed at a time
        self._ports = Ports()
        self._naming = Naming(resolv_conf_path)
        self._firewall = Firewall(
            settings.tag,
            self._firewall_facts,
            bridges=lambda: [one.bridge for one in self._catalog.bridges()],
            docker_user=settings.docker_user,
        )
        self._ledger = Ledger(os.path.join(settings.run_root, "sandboxes"))
        self._spares = Spares()
        self._departures = Departures(self._interfaces_gone)
        self._departing: dict[str, EndpointRecord] = {}  # by port: released, but the rules still know them

    # --- life of the daemon

    def start(self, live: Iterable[str] = ()) -> None:
        """Make what the records say and sweep what nothing accounts for.  ``live``: ids of containers whose processes still run."""
        running = set(live)
        bridge.forward_packets()
        self._catalog.load()
        sandboxes = self._load_sandboxes(running)
        with Netlink() as host:
            # First: a bridge of a data root that was erased stands where a new one is to be made.
            for name in bridge.leftovers(host, self._settings.tag, networks=[one.id for one in self._catalog.all()], containers=running):
                log.info("removing interface %s that nothing accounts for", name)
                bridge.remove(host, name)
            self._catalog.begin(host, in_use={one.network_id for record in sandboxes for one in record.endpoints})
            for record in sandboxes:
                self._restore(record)
        self._firewall.build()
        self._firewall.watch()
        for warning in self._firewall.warnings():
            log.warning("%s", warning)
        self._naming.start()
        self._departures.start()
        self._spares.start()

    def close(self) -> None:
        """Stop threads and close descriptors; containers run on with their interfaces and ports. Twice is success."""
        self._naming.close()
        self._departures.close()
        self._spares.close()
        for sandbox in self._sandboxes.values():
            sandbox.close()
        self._firewall.close()
        self._ledger.close()

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
            record = self._catalog.define(body)
            self._catalog.install(record, lambda made: self._firewall.add_network(made.facts()))
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
            self._uninstall([record])
            return record

    def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> Sequence[NetworkRecord]:
        """Remove the networks that no container is on, all at once.  ``filters``: until, label, label!."""
        with self._creation:
            records = self.prunable(filters)
            if records:
                self._uninstall(records)
            return records

    def _uninstall(self, records: Sequence[NetworkRecord]) -> None:
        self.settle()
        self._firewall.remove_networks([one.facts() for one in records])
        self._catalog.uninstall(records)

    def prunable(self, filters: Mapping[str, Sequence[str]] | None = None) -> Sequence[NetworkRecord]:
        """What `prune` removes."""
        chosen = definition.prune_filter(filters or {})
        with self._lock:
            return [
                record
                for record in self._catalog.all()
                if not record.predefined and chosen(record) and not any(True for _ in self._members(record.id))
            ]

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> Sequence[Network]:
        """Networks that match, without their containers.  Raises InvalidRequest for an unknown filter."""
        with self._lock:
            used = {one.network_id for sandbox in self._sandboxes.values() for one in sandbox.record.endpoints}
            chosen = definition.list_filter(filters or {}, used)
            return [definition.shown(record, {}) for record in self._catalog.all() if chosen(record)]

    def inspect(self, reference: str) -> Network:
        return self._shown(self.resolve(reference))

    def resolve(self, reference: str) -> NetworkRecord:
        """A network by name, id or unique prefix of its id.  Raises NotFound, InvalidRequest."""
        return self._catalog.resolve(reference)

    def warnings(self) -> Sequence[str]:
        """What keeps networks from working fully, for ``info``: no nf_tables, or another program that refuses to forward."""
        return self._firewall.warnings()

    def gateway(self) -> str:
        """What ``host-gateway`` means: the default bridge's address."""
        return next(one.gateway for one in self._catalog.all() if one.is_default)

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
            return self._register(Sandbox(container_id=request.container_id, record=empty(request)))
        if request.mode.startswith("container:"):
            assert request.join_fd is not None
            joined = namespace.enter(os.dup(request.join_fd))
            return self._register(Sandbox(container_id=request.container_id, record=empty(request), namespace=joined))
        if request.mode == "none":
            return self._register(Sandbox(container_id=request.container_id, record=empty(request), namespace=self._spares.take()))
        return self._prepare(request, self._asked(request.mode, request.networks))

    def prepares_quickly(self, request: SandboxRequest) -> bool:
        """Whether `prepare` now has nothing to wait for in the kernel, so that an event loop may call it."""
        if request.mode == "host":
            return True
        if request.bindings or request.mode.startswith("container:") or not self._spares:
            return False
        fixed = {wish.ipam_config.ipv4_address for wish in request.networks.values() if wish.ipam_config is not None}
        with self._lock:
            return not any(one.address in fixed or self._catalog.is_full(one.network_id) for one in self._departing.values())

    def plug(self, sandbox: Sandbox) -> None:
        """The rest of `attach`: interfaces, rules, names.  Raises OSError or EngineError; `release` must follow then."""
        record, inner = sandbox.record, sandbox.namespace
        if sandbox.plugged or inner is None:
            return
        with ExitStack() as undo:
            gateway = gateway_endpoint(record.endpoints)
            for endpoint in record.endpoints:
                self._plug(inner, sandbox.container_id, endpoint, default_route=endpoint is gateway, undo=undo)
            self._firewall.add(record.ports(), record.targets())
            undo.callback(self._withdraw_rules, record.ports(), record.targets())
            if sandbox.internal_resolver:
                undo.callback(self._naming.withdraw, record)
                self._naming.serve(sandbox)
            self._naming.publish(sandbox)
            sandbox.plugged = True
            undo.pop_all()

    def adopt(self, container_id: str, fd: int) -> Sandbox:
        """The sandbox of a container that outlived the last daemon.  ``fd``: its network namespace, which is taken over."""
        with self._lock:
            sandbox = self._sandboxes.get(container_id)
            if sandbox is None:
                sandbox = Sandbox(container_id=container_id, record=SandboxRecord(container_id=container_id, name=""))
                self._sandboxes[container_id] = sandbox
        if os.fstat(fd).st_ino == os.stat("/proc/thread-self/ns/net").st_ino:
            os.close(fd)
            return sandbox
        sandbox.namespace = namespace.enter(fd)
        if sandbox.record.endpoints:
            self._naming.publish(sandbox)
            self._naming.serve(sandbox)
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
        definition.check_connect(network, [self._catalog.get(one.network_id) for one in sandbox.record.endpoints], sandbox.record.name)
        if sandbox.namespace is None or network.driver == "host":
            raise Forbidden("cannot connect container to host network - container must be created in host network mode")
        definition.check_wish(network, wish or EndpointSettings())
        before = gateway_endpoint(sandbox.record.endpoints)
        with ExitStack() as undo:
            endpoint = self._allocate(
                container_id, sandbox.record.name, network, wish or EndpointSettings(), sandbox.record, guarded=guarded
            )
            undo.callback(self._catalog.free, [endpoint])
            grown = msgspec.structs.replace(sandbox.record, endpoints=[*sandbox.record.endpoints, endpoint])
            self._keep(grown)
            undo.callback(self._keep, sandbox.record)
            self._plug(sandbox.namespace, container_id, endpoint, default_route=False, undo=undo)
            after = gateway_endpoint(grown.endpoints)
            if after != before:
                bridge.move_default_route(sandbox.namespace, before, after)
            self._firewall.add(guards([endpoint]), [])
            sandbox.record = grown
            undo.pop_all()
        self._naming.publish(sandbox)
        self._naming.serve(sandbox)
        return settings(endpoint)

    def disconnect(self, container_id: str, reference: str) -> None:
        """Disconnect a running container from a network.  Raises NotFound, Forbidden."""
        network = self.resolve(reference)
        sandbox = self._running(container_id)
        gone = next((one for one in sandbox.record.endpoints if one.network_id == network.id), None)
        if gone is None:
            raise Forbidden(f"container {container_id} is not connected to network {network.name}")
        assert sandbox.namespace is not None
        before = gateway_endpoint(sandbox.record.endpoints)
        left = [one for one in sandbox.record.endpoints if one is not gone]
        publications = sandbox.record.publications if sandbox.record.target != gone.address else []
        targets = [] if publications else sandbox.record.targets()
        if targets:
            self._firewall.remove([], targets)
        self._ports.release([one.publication for one in targets])
        shrunk = msgspec.structs.replace(sandbox.record, endpoints=left, publications=publications)
        with self._lock:
            sandbox.record = shrunk
            self._departing[gone.port] = gone
        self._naming.leave(network.id, container_id)
        self._naming.publish(sandbox)
        self._departures.depart([gone], urgent=True).wait(timeout=10)
        after = gateway_endpoint(left)
        if after is not None and after != before:
            bridge.move_default_route(sandbox.namespace, None, after)
        self._keep(shrunk)

    def rename(self, container_id: str, name: str) -> None:
        """A running container has another name now."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            return
        old = sandbox.record.name
        endpoints = [renamed(one, old, name) for one in sandbox.record.endpoints]
        sandbox.record = msgspec.structs.replace(sandbox.record, name=name, endpoints=endpoints)
        if endpoints:
            self._keep(sandbox.record)
        self._naming.rename(container_id, old, name)

    def release(self, container_id: str) -> None:
        """Take back all that a container held; one that holds nothing is success.

        Its interfaces vanish, and its addresses become free, a moment later: ``settle`` waits for it.
        """
        with self._lock:
            sandbox = self._sandboxes.pop(container_id, None)
            if sandbox is not None:
                self._departing.update((one.port, one) for one in _guarded_only_if(sandbox.record.endpoints, plugged=sandbox.plugged))
        if sandbox is None:
            return
        record = sandbox.record
        if sandbox.internal_resolver:
            self._naming.withdraw(record)
        sandbox.close()
        if record.endpoints:
            if sandbox.plugged and record.publications:
                self._withdraw_rules([], record.targets())
            self._withdraw_ports(record)
            self._departures.depart(record.endpoints)
            self._ledger.forget(container_id)

    def releases_quickly(self, container_id: str) -> bool:
        """Whether `release` has nothing to wait for, so that an event loop may call it."""
        sandbox = self._sandboxes.get(container_id)
        return sandbox is None or not (sandbox.internal_resolver or sandbox.record.publications)

    def resolv_conf(self, sandbox: Sandbox, *, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()) -> str:
        """The container's resolv.conf; with the host's network and no wishes it is the host's own."""
        return self._naming.resolv_conf(sandbox, dns=dns, search=search, options=options)

    def settle(self) -> None:
        """Wait until what was released is gone from the kernel."""
        self._departures.settle()

    # --- private: start

    def _load_sandboxes(self, running: Collection[str]) -> Sequence[SandboxRecord]:
        found: list[SandboxRecord] = []
        for record in self._ledger.load():
            if record.container_id in running and all(self._catalog.has(one.network_id) for one in record.endpoints):
                found.append(record)
            else:
                self._ledger.forget(record.container_id)
        return found

    def _restore(self, record: SandboxRecord) -> None:
        for one in record.endpoints:
            try:
                self._catalog.reserve(one)
            except (Forbidden, InvalidRequest) as error:
                log.warning("container %s: %s: %s", record.name, one.address, error)
        self._ports.restore(one.publication() for one in record.publications)
        self._sandboxes[record.container_id] = Sandbox(container_id=record.container_id, record=record)

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
            networks = [one.facts() for one in self._catalog.bridges()]
            ports = [port for one in records for port in one.ports()] + list(guards(list(self._departing.values())))
        return networks, ports, [target for one in records for target in one.targets()]

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
            record = empty(request)
            for network, wish in asked:
                endpoint = self._allocate(request.container_id, request.name, network, wish, record, guarded=request.guarded)
                undo.callback(self._catalog.free, [endpoint])
                record = msgspec.structs.replace(record, endpoints=[*record.endpoints, endpoint])
            held = self._publish(request, record)
            undo.callback(self._unpublish, held)
            record = with_ports(record, held)
            self._keep(record)
            undo.callback(self._ledger.forget, request.container_id)
            inner = self._spares.take()
            undo.callback(inner.close)
            sandbox = self._register(self._sandbox(request, record, inner, held))
            undo.pop_all()
        return sandbox

    def _sandbox(self, request: SandboxRequest, record: SandboxRecord, inner: Namespace, held: Sequence[Held]) -> Sandbox:
        named = any(not self._catalog.get(one.network_id).is_default for one in record.endpoints)
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
        ident = ids.new_id()
        port = f"{self._settings.tag}v{ident[:8]}"
        interface = interfaces.name(wish.driver_opts, [one.interface for one in record.endpoints], port=port)
        asked = wish.ipam_config.ipv4_address if wish.ipam_config is not None else ""
        try:
            address, prefix = self._catalog.allocate(network, asked)
        except (Forbidden, Internal):
            if not self._is_leaving(network, asked):
                raise
            self.settle()
            address, prefix = self._catalog.allocate(network, asked)
        names = names_of(name, *(wish.aliases or ()), ids.short(container_id), record.hostname)
        made = new_endpoint(network, wish, address=address, prefix=prefix, ident=ident, port=port, interface=interface)
        return msgspec.structs.replace(made, names=[] if network.is_default else names, guarded=guarded)

    def _is_leaving(self, network: NetworkRecord, asked: str) -> bool:
        """Whether an address will be free in a moment: the one ``asked`` for, or any."""
        with self._lock:
            return any(one.network_id == network.id and asked in ("", one.address) for one in self._departing.values())

    def _publish(self, request: SandboxRequest, record: SandboxRecord) -> Sequence[Held]:
        target = gateway_endpoint(record.endpoints)
        if target is None or not request.bindings:
            return []
        default_ip = self._catalog.get(target.network_id).options.get(definition.OPTION_HOST_BINDING, "")
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
        network = self._catalog.get(endpoint.network_id)
        label = endpoint.label(self._settings.tag, container_id)
        with Netlink() as host:
            try:
                bridge.plug(host, inner, endpoint, network=network, label=label, default_route=default_route)
            except OSError as error:
                raise Internal(f"failed to connect to network {network.name}: {error}") from error
        undo.callback(bridge.remove_by_name, endpoint.port)
        if interfaces.has_settings(endpoint.driver_options):
            namespace.inside(inner.fd, lambda: interfaces.apply(endpoint.driver_options, endpoint.interface, port=endpoint.port))

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

    def _interfaces_gone(self, endpoints: Sequence[EndpointRecord]) -> None:
        """Now their guards may go, not before: all at once, which takes hardly longer than one.  Then their addresses are free."""
        with self._lock:
            guarded = [one for one in endpoints if self._departing.pop(one.port, None) is not None]
        self._withdraw_rules(guards(guarded), [])
        self._catalog.free(endpoints)

    def _withdraw_rules(self, ports: Sequence[PortFacts], targets: Sequence[Target]) -> None:
        if not ports and not targets:
            return
        try:
            self._firewall.remove(ports, targets)
        except OSError as error:
            log.warning("rules: %s", error)


def _guarded_only_if(endpoints: Sequence[EndpointRecord], *, plugged: bool) -> Sequence[EndpointRecord]:
    """The rules know of the guards of what was plugged, and of no others."""
    return endpoints if plugged else [msgspec.structs.replace(one, guarded=False) for one in endpoints]
