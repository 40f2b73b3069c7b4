"""Operations on networks, as the API asks for them (``api/ports.Networks``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from wherry.containers.container import Container
from wherry.engine.rooms import Rooms
from wherry.engine.running import Running
from wherry.errors import Conflict, Forbidden, NotFound
from wherry.networks.record import NetworkRecord
from wherry.spec.docker.network import (
    EndpointSettings,
    Network,
    NetworkConnect,
    NetworkCreate,
    NetworkCreated,
    NetworkDisconnect,
    NetworksPruned,
)
from wherry.spec.docker.request import Filters


class NetworkOperations:
    rooms: Rooms
    running: Running

    async def list_networks(self, filters: Filters) -> Sequence[Network]:
        return self.rooms.networks.list(filters)

    async def inspect_network(self, ref: str, *, verbose: bool, scope: str) -> Network:
        if scope not in ("", "local"):
            raise NotFound(f"network {ref} not found")
        return self.rooms.networks.inspect(ref)

    async def create_network(self, body: NetworkCreate) -> NetworkCreated:
        made = await self.rooms.workers.run(self.rooms.networks.create, body)
        self._told_network("create", made.id, made.name, made.driver)
        return NetworkCreated(id=made.id)

    async def remove_network(self, ref: str) -> None:
        record = self.rooms.networks.resolve(ref)
        waiting = self._asking_for(record)
        removed = await self.rooms.workers.run(self.rooms.networks.remove, ref)
        for container in waiting:
            await container.perform(partial(self._forget_network, container, record.name))
        self._told_network("destroy", removed.id, removed.name, removed.driver)

    def _asking_for(self, record: NetworkRecord) -> list[Container]:
        return [one for one in self.rooms.containers.all() if {record.name, record.id} & set(one.record.networks) and not one.is_running]

    async def _forget_network(self, container: Container, name: str) -> None:
        if container.record.host_config.network_mode != name and container.record.networks.pop(name, None) is not None:
            self.rooms.containers.save(container)

    async def connect_network(self, ref: str, body: NetworkConnect) -> None:
        container = self.rooms.containers.get(body.container)
        network = self.rooms.networks.resolve(ref)
        wish = body.endpoint_config or EndpointSettings()
        await container.perform(lambda: self._connect(container, network, wish))

    async def _connect(self, container: Container, network: NetworkRecord, wish: EndpointSettings) -> None:
        record = container.record
        if network.driver == "host":
            raise Conflict("cannot connect container to host network - container must be created in host network mode")
        if record.host_config.network_mode == "host" or record.host_config.network_mode.startswith("container:"):
            raise Forbidden("container sharing network namespace with another container or host cannot be connected to any other network")
        if container.is_running:
            host = record.host_config
            guarded = not (host.privileged or "NET_ADMIN" in {name.upper().removeprefix("CAP_") for name in host.cap_add or ()})
            with self.running.wiring.changing(container):
                await self.rooms.workers.run(self.rooms.networks.connect, container.id, network.id, wish, guarded=guarded)
        elif network.name in record.networks:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
        record.networks[network.name] = wish
        self.rooms.containers.save(container)
        self._told_network("connect", network.id, network.name, network.driver, container=container.id)

    async def disconnect_network(self, ref: str, body: NetworkDisconnect) -> None:
        network = self.rooms.networks.resolve(ref)
        try:
            container = self.rooms.containers.get(body.container)
        except NotFound:
            if body.force:
                return
            raise
        await container.perform(lambda: self._disconnect(container, network))

    async def _disconnect(self, container: Container, network: NetworkRecord) -> None:
        known = {network.name, network.id} & set(container.record.networks)
        if container.is_running:
            with self.running.wiring.changing(container):
                await self.rooms.workers.run(self.rooms.networks.disconnect, container.id, network.id)
        elif not known:
            raise Conflict(f"container {container.id} is not connected to the network {network.name}")
        for name in known:
            del container.record.networks[name]
        self.rooms.containers.save(container)
        self._told_network("disconnect", network.id, network.name, network.driver, container=container.id)

    async def prune_networks(self, filters: Filters) -> NetworksPruned:
        removed = await self.rooms.workers.run(self.rooms.networks.prune, filters)
        for record in removed:
            self._told_network("destroy", record.id, record.name, record.driver)
        self.rooms.events.publish("network", "prune", "", {"reclaimed": "0"})
        return NetworksPruned(networks_deleted=[record.name for record in removed] or None)

    def _told_network(self, action: str, ident: str, name: str, driver: str, **more: str) -> None:
        self.rooms.events.publish("network", action, ident, {"name": name, "type": driver, **more})
