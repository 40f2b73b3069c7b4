"""What takes how much of the disk: `system df`."""

from __future__ import annotations

from wherry.build import cache
from wherry.containers.present import rfc3339
from wherry.engine.images import ImageOperations
from wherry.engine.volumes import shown
from wherry.spec.docker.build import BuildCacheRecord
from wherry.spec.docker.container import ContainerSummary
from wherry.spec.docker.image import ImageSummary
from wherry.spec.docker.system import DiskUsage
from wherry.spec.docker.volume import Volume, VolumeUsage


class DiskOperations(ImageOperations):
    async def disk_usage(self, kinds: frozenset[str]) -> DiskUsage:
        usage = DiskUsage()
        wanted = kinds or {"container", "image", "volume", "build-cache"}
        if "image" in wanted:
            usage.images = self._images_used()
            usage.layers_size = self.rooms.images.usage().layers_bytes
        if "container" in wanted:
            usage.containers = await self._containers_used()
        if "volume" in wanted:
            usage.volumes = await self.rooms.workers.run(self._volumes_used)
        if "build-cache" in wanted:
            usage.build_cache = await self.rooms.workers.run(self._cache_used)
        return usage

    def _images_used(self) -> list[ImageSummary]:
        shared = self.rooms.images.usage().shared_bytes
        users = self.rooms.containers.image_users()
        return [self.image_summary(image, shared.get(image.id, 0), containers=users[image.id]) for image in self.rooms.images.list()]

    async def _containers_used(self) -> list[ContainerSummary]:
        return list(await self.list_containers(all=True, limit=0, size=True, filters={}, since="", before=""))

    def _volumes_used(self) -> list[Volume]:
        rows = []
        for volume in self.rooms.volumes.list():
            row = shown(volume)
            row.usage_data = VolumeUsage(
                size=self.rooms.volumes.usage(volume.name), ref_count=len(self.rooms.containers.using_volume(volume.name))
            )
            rows.append(row)
        return rows

    def _cache_used(self) -> list[BuildCacheRecord]:
        images = {layer for image in self.rooms.images.list(every=True) for layer in image.chain_ids}
        return [
            BuildCacheRecord(
                id=item.id,
                type=item.kind,
                description=item.description,
                in_use=item.in_use,
                shared=item.shared,
                size=item.size_bytes,
                created_at=item.created,
                last_used_at=rfc3339(int(item.used_at * 1e9)) if item.used_at else None,
                usage_count=item.uses,
            )
            for item in cache.usage(self.rooms.records, images)
        ]
