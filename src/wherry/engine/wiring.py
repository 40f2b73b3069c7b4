"""What a container is connected to when it starts: its network, its files in /etc, its links, and namespaces it shares with others."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from wherry.containers import oci
from wherry.containers.container import Container
from wherry.containers.service import Containers
from wherry.engine.rooms import Rooms
from wherry.errors import Conflict, EngineError, Internal, InvalidRequest, NotFound, told
from wherry.networks import files, ports
from wherry.networks.files import LinkTarget
from wherry.networks.sandbox import Sandbox, SandboxRequest
from wherry.spec.docker.container import PortBinding
from wherry.spec.docker.network import EndpointSettings
from wherry.spec.launch import Forward
from wherry.store.layer import write_all

log = logging.getLogger(__name__)

ETC = ("resolv.conf", "hostname", "hosts")
RAW_NETWORK = frozenset({"CAP_NET_ADMIN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """``files``: path in the container -> file on the host; ``joined``: namespace -> path, "" for the host's own;
    ``shm``: where the /dev/shm of a joined ipc namespace is. Both are there until ``close``.
    """

    sandbox: Sandbox
    files: Mapping[str, str]
    joined: Mapping[str, str]
    environment: Sequence[str]
    shm: str
    held: ExitStack

    @property
    def netns_fd(self) -> int | None:
        return self.sandbox.netns_fd

    @property
    def forwards(self) -> tuple[Forward, ...]:
        return tuple(forward for _, forward in self.sandbox.forwards)

    @property
    def forward_fds(self) -> list[int]:
        return [holder.fileno() for holder, _ in self.sandbox.forwards]

    def close(self) -> None:
        """The monitor holds the published ports from here on, or the start has failed."""
        self.sandbox.close_forwards()
        self.held.close()


class Wiring:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    # --- connect and disconnect

    async def connect(self, container: Container) -> Wired:
        """Prepare the network, which `plug` finishes, and write the files.  Raises EngineError; nothing is left then."""
        rooms, record = self._rooms, container.record
        host = record.host_config
        with ExitStack() as held:
            donor = running_other(self._rooms.containers, host.network_mode) if host.network_mode.startswith("container:") else None
            joined, shm = self._joined_namespaces(container, held)
            if donor is not None:
                record.config.hostname, record.config.domainname = donor.record.config.hostname, donor.record.config.domainname
            links = self._links(container)
            capabilities = oci.capabilities_of(host, rooms.capabilities)
            request = SandboxRequest(
                container_id=record.id,
                name=record.name,
                hostname=record.config.hostname,
                mode=host.network_mode if record.networks or host.network_mode.startswith("container:") else "none",
                networks=record.networks,
                bindings=self._bindings(container),
                join_fd=open_namespace(donor, "net", held) if donor else None,
                dns=host.dns or (),
                links=links,
                guarded=not (host.privileged or RAW_NETWORK & set(capabilities)),
            )
            try:
                if rooms.networks.prepares_quickly(request):
                    sandbox = rooms.networks.prepare(request)
                else:
                    sandbox = await rooms.workers.run(rooms.networks.prepare, request)
            except EngineError as error:
                raise networking(error) from error
            try:
                written = self._write_files(container, sandbox, links, donor)
            except BaseException:
                await self._release(record.id)
                raise
            for endpoint in sandbox.record.endpoints:
                self._publish_network("connect", endpoint.network_id, endpoint.network, container)
            environment = (
                [line for link in links for line in files.link_environment(record.name, link)] if self._has_legacy_links(container) else []
            )
            return Wired(sandbox=sandbox, files=written, joined=joined, environment=environment, shm=shm, held=held.pop_all())

    async def plug(self, wired: Wired) -> None:
        """Interfaces, rules, names: the program must not run before.  Raises EngineError; `disconnect` must follow then."""
        try:
            await self._rooms.workers.run(self._rooms.networks.plug, wired.sandbox)
        except EngineError as error:
            raise networking(error) from error

    async def disconnect(self, container: Container) -> None:
        sandbox = self._rooms.networks.sandbox(container.id)
        if sandbox is None:
            return
        endpoints = list(sandbox.record.endpoints)
        await self._release(container.id)
        for endpoint in endpoints:
            self._publish_network("disconnect", endpoint.network_id, endpoint.network, container)

    async def _release(self, container_id: str) -> None:
        networks = self._rooms.networks
        if networks.releases_quickly(container_id):
            networks.release(container_id)
        else:
            await self._rooms.workers.run(networks.release, container_id)

    @contextmanager
    def changing(self, container: Container) -> Iterator[None]:
        """Around a change of a running container's networks: its hosts file follows, and resolv.conf unless somebody edited it."""
        sandbox = self._rooms.networks.sandbox(container.id)
        if sandbox is None or sandbox.netns_fd is None:
            yield
            return
        addresses, resolver = sandbox.hosts_addresses, self._resolv_conf(container, sandbox)
        yield
        now = sandbox.hosts_addresses
        config, folder = container.record.config, self._rooms.containers.folder(container.id)
        hosts_path, resolver_path = os.path.join(folder, "hosts"), os.path.join(folder, "resolv.conf")
        try:
            changed = files.changed_hosts(
                _text(hosts_path),
                removed=[one for one in addresses if one not in now],
                added=[one for one in now if one not in addresses],
                hostname=config.hostname,
                domainname=config.domainname,
            )
            write_fresh(hosts_path, changed)
            if _text(resolver_path) == resolver:
                write_fresh(resolver_path, self._resolv_conf(container, sandbox))
        except (OSError, UnicodeDecodeError) as error:  # the container may have made anything of them
            log.warning("container %s: %s", container.name, error)

    def _publish_network(self, action: str, network_id: str, name: str, container: Container) -> None:
        self._rooms.events.publish("network", action, network_id, {"container": container.id, "name": name, "type": "bridge"})

    def _bindings(self, container: Container) -> list[ports.Binding]:
        host, exposed = container.record.host_config, container.record.config.exposed_ports or {}
        if host.network_mode == "host" or host.network_mode == "none":
            return []
        wishes = dict(host.port_bindings or {})
        if host.publish_all_ports:
            wishes = {**{f"{port}/{protocol}": [PortBinding()] for port, protocol in ports.exposed(exposed)}, **wishes}
        return ports.parse_bindings(wishes)

    def _joined_namespaces(self, container: Container, held: ExitStack) -> tuple[dict[str, str], str]:
        """Those of others as paths of descriptors in ``held``; and where the /dev/shm of an ipc namespace is."""
        host = container.record.host_config
        joined: dict[str, str] = {}
        shm = "/dev/shm"
        for kind, mode in (("pid", host.pid_mode), ("ipc", host.ipc_mode), ("uts", host.uts_mode), ("cgroup", host.cgroupns_mode)):
            if mode == "host":
                joined[kind] = ""
            elif mode.startswith("container:"):
                donor = self._donor(kind, mode)
                joined[kind] = _path(open_namespace(donor, kind, held))
                if kind == "ipc":
                    shm = f"{_path(open_namespace(donor, 'mnt', held))}:/dev/shm"
        return joined, shm

    def _donor(self, kind: str, mode: str) -> Container:
        name = mode.partition(":")[2]
        try:
            other = self._rooms.containers.get(name)
        except (NotFound, InvalidRequest) as error:
            raise InvalidRequest(f"failed to join {kind.upper()} namespace: {error}") from error
        if not other.is_running:
            raise Conflict(f"failed to join {kind.upper()} namespace: container {other.id} is not running")
        if kind == "ipc" and other.record.host_config.ipc_mode not in ("shareable", "host"):
            raise InvalidRequest(
                f"failed to join IPC namespace: container {other.id}: non-shareable IPC "
                "(hint: use IpcMode:shareable for the donor container)"
            )
        return other

    # --- links

    def _has_legacy_links(self, container: Container) -> bool:
        return container.record.host_config.network_mode == "bridge"

    def _links(self, container: Container) -> list[LinkTarget]:
        """Where `--link` leads. On the default bridge the other must run, as with Docker."""
        found = []
        for ident, alias in container.record.links:
            try:
                other = self._rooms.containers.get(ident)
            except NotFound:
                continue
            sandbox = self._rooms.networks.sandbox(ident)
            bridge = sandbox.endpoints.get("bridge") if sandbox else None
            if bridge is None and self._has_legacy_links(container):
                if other.is_running:
                    raise Internal(f"container {other.id} not attached to default bridge network")
                raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{container.name}/{alias}")
            exposed = ports.exposed(other.record.config.exposed_ports or ())
            found.append(
                LinkTarget(
                    container_id=ident,
                    name=other.name,
                    alias=alias,
                    address=bridge.ip_address if bridge else "",
                    ports=tuple(exposed),
                    environment=tuple(other.record.config.env or ()),
                )
            )
        return found

    # --- files in /etc

    def _write_files(self, container: Container, sandbox: Sandbox, links: list[LinkTarget], donor: Container | None) -> dict[str, str]:
        rooms, config = self._rooms, container.record.config
        folder = rooms.containers.folder((donor or container).id)
        places = {f"/etc/{name}": os.path.join(folder, name) for name in ETC}
        if donor is not None:
            return places
        texts = {
            "hostname": files.hostname_file(config.hostname),
            "resolv.conf": self._resolv_conf(container, sandbox),
            "hosts": self._hosts(container, sandbox, links),
        }
        for name, text in texts.items():
            write_fresh(os.path.join(folder, name), text)
        return places

    def _resolv_conf(self, container: Container, sandbox: Sandbox) -> str:
        host = container.record.host_config
        wishes = {"dns": host.dns or (), "search": host.dns_search or (), "options": host.dns_options or ()}
        return self._rooms.networks.resolv_conf(sandbox, **wishes)

    def _hosts(self, container: Container, sandbox: Sandbox, links: list[LinkTarget]) -> str:
        config, host = container.record.config, container.record.host_config
        gateway = self._rooms.networks.gateway()
        extra = [files.parse_extra_host(value, gateway) for value in host.extra_hosts or ()]
        if sandbox.netns_fd is None:
            with open("/etc/hosts") as own:
                return own.read() + "".join(f"{address}\t{name}\n" for name, address in extra)
        return files.hosts(
            addresses=sandbox.hosts_addresses,
            hostname=config.hostname,
            domainname=config.domainname,
            extra=extra,
            links=links if self._has_legacy_links(container) else (),
        )

    # --- as the API shows it

    def endpoints(self, container: Container) -> dict[str, EndpointSettings]:
        """By network name: what it has while it runs, else what it will ask for."""
        sandbox = self._rooms.networks.sandbox(container.id)
        if sandbox is not None and sandbox.record.endpoints:
            return sandbox.endpoints
        shown = {}
        for name, asked in container.record.networks.items():
            try:
                network = self._rooms.networks.resolve(name)
            except EngineError:
                shown[name] = asked
                continue
            shown[network.name] = EndpointSettings(
                ipam_config=asked.ipam_config,
                links=asked.links,
                aliases=asked.aliases,
                mac_address=asked.mac_address,
                driver_opts=asked.driver_opts,
                gw_priority=asked.gw_priority,
                network_id=network.id,
            )
        return shown

    def published(self, container: Container) -> Mapping[str, Sequence[PortBinding]]:
        sandbox = self._rooms.networks.sandbox(container.id)
        if sandbox is None:
            return {}
        return {name: places or [] for name, places in sandbox.ports.items()}

    def sandbox_id(self, container: Container) -> str:
        return container.id if self._rooms.networks.sandbox(container.id) is not None else ""


def running_other(containers: Containers, mode: str) -> Container:
    """The container whose network `container:X` names; it must run."""
    name = mode.partition(":")[2]
    try:
        other = containers.get(name)
    except NotFound as error:
        raise NotFound(f"joining network namespace of container: {error}") from error
    if not other.is_running:
        status = other.record.state.status
        raise Conflict(f"cannot join network namespace of a non running container: container {other.name} is {status}")
    return other


def open_namespace(donor: Container, kind: str, held: ExitStack) -> int:
    """A descriptor of a namespace of a running container, closed by ``held``.  Raises Conflict."""
    try:
        if donor.process is None:
            raise ProcessLookupError
        fd = donor.process.open_namespace(kind)
    except ProcessLookupError:
        raise Conflict(f"cannot join {kind} namespace of a non running container: container {donor.id} has ended") from None
    except OSError as error:
        raise Conflict(f"cannot join {kind} namespace of container {donor.id}: {told(error)}") from error
    held.callback(os.close, fd)
    return fd


def _path(fd: int) -> str:
    """What names a descriptor of ours in other processes."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def networking(error: EngineError) -> EngineError:
    return type(error)(f"failed to set up container networking: {error}")


def _text(path: str) -> str:
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def write_fresh(path: str, text: str) -> None:
    """Write a file that a container may see through a bind mount: in place, so that a restart keeps its inode."""
    try:
        with open(path, "wb", buffering=0) as file:
            write_all(file, text.encode())
            os.fchmod(file.fileno(), 0o644)
    except OSError as error:
        error.filename = path  # a full disk is told of when writing, without a name
        raise
