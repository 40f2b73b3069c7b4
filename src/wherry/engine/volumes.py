"""Operations on volumes, as the API asks for them (``api/ports.Volumes``)."""

from __future__ import annotations

from wherry.engine.rooms import Rooms
from wherry.errors import NotFound, NotSupported
from wherry.spec.docker.request import Filters
from wherry.spec.docker.volume import Volume, VolumeCreate, VolumeList, VolumesPruned
from wherry.volumes.service import Volume as Kept


class VolumeOperations:
    rooms: Rooms

    async def list_volumes(self, filters: Filters) -> VolumeList:
        found = self.rooms.volumes.list(filters, in_use=self.rooms.containers.using_volume)
        return VolumeList(volumes=[shown(volume) for volume in found])

    async def inspect_volume(self, name: str) -> Volume:
        return shown(self.rooms.volumes.get(name))

    async def create_volume(self, body: VolumeCreate) -> Volume:
        if body.cluster_volume_spec:
            raise NotSupported("cluster volumes are not supported")
        existed = bool(body.name) and self.rooms.volumes.exists(body.name)
        made = await self.rooms.workers.run(
            self.rooms.volumes.create, body.name, driver=body.driver or "local", labels=body.labels, options=body.driver_opts
        )
        if not existed:
            self.rooms.events.publish("volume", "create", made.name, {"driver": made.driver})
        return shown(made)

    async def remove_volume(self, name: str, *, force: bool) -> None:
        try:
            await self.rooms.workers.run(self.rooms.volumes.remove, name, force=force, in_use=self.rooms.containers.using_volume)
        except NotFound:
            if force:
                return
            raise
        self.rooms.events.publish("volume", "destroy", name, {"driver": "local"})

    async def prune_volumes(self, filters: Filters) -> VolumesPruned:
        result = await self.rooms.workers.run(self.rooms.volumes.prune, filters, in_use=self.rooms.containers.using_volume)
        for name in result.deleted:
            self.rooms.events.publish("volume", "destroy", name, {"driver": "local"})
        self.rooms.events.publish("volume", "prune", "", {"reclaimed": str(result.reclaimed_bytes)})
        return VolumesPruned(volumes_deleted=result.deleted, space_reclaimed=result.reclaimed_bytes)


def shown(volume: Kept) -> Volume:
    return Volume(
        created_at=volume.created_at,
        driver=volume.driver,
        labels=volume.labels,
        mountpoint=volume.mountpoint,
        name=volume.name,
        options=volume.options,
        scope=volume.scope,
    )
