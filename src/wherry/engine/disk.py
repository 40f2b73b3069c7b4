"""What takes how much of the disk: `system df`."""

from __future__ import annotations

import os
from contextlib import suppress

from wherry.build import cache, cache_mounts
from wherry.containers.present import rfc3339
from wherry.engine.images import ImageOperations
from wherry.engine.volumes import shown
from wherry.errors import NotFound
from wherry.spec.docker.build import BuildCacheRecord
from wherry.spec.docker.container import ContainerSummary
from wherry.spec.docker.diskparts import DiskPart, DiskParts
from wherry.spec.docker.image import ImageSummary
from wherry.spec.docker.system import DiskUsage
from wherry.spec.docker.volume import Volume, VolumeUsage
from wherry.store.snapshot import SnapshotMissing
from wherry.tree.measure import disk_bytes

_PARTS = {
    "content": "image configurations and blobs",
    "containers": "container files and logs",
    "volumes": "volumes",
    "build-mounts": "cache mounts of builds",
    "init": "mount points",
    "partial": "downloads broken off",
    "staging": "being received",
    "quarantine": "set aside by fsck",
}


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
            usage.volumes = await self.rooms.attendants.run(self._volumes_used)
        if "build-cache" in wanted:
            usage.build_cache = await self.rooms.attendants.run(self._cache_used)
        return usage

    async def disk_parts(self) -> DiskParts:
        """Every byte of the data root, by what it is for."""
        return await self.rooms.attendants.run(self._disk_parts)

    def _disk_parts(self) -> DiskParts:
        rooms = self.rooms
        root = rooms.settings.data_root
        layers = {str(layer) for image in rooms.images.list(every=True) for layer in image.chain_ids}
        cached = {*cache.layers(rooms.records), *cache.bases(rooms.records, rooms.snapshotter.items(), layers)}
        active = {info.name for info in rooms.snapshotter.items() if info.active}
        sizes: dict[str, tuple[int, int]] = {}

        def add(part: str, size: int, count: int = 1) -> None:
            known = sizes.get(part, (0, 0))
            sizes[part] = (known[0] + size, known[1] + count)

        for name, size in rooms.snapshotter.on_disk().items():
            if not name:
                add("other", size, 0)
            elif name in active:
                add("container layers", size)
            else:
                add("image layers" if name in layers else "build cache" if name in cached else "layers of no image", size)
        seen: set[tuple[int, int]] = set()
        for name in sorted(os.listdir(root)):
            if name != "snapshots":
                add(_PARTS.get(name, "records" if name.startswith("state.") else "other"), disk_bytes(os.path.join(root, name), seen), 0)
        add("other", os.lstat(root).st_blocks * 512, 0)
        parts = [DiskPart(name=name, size=size, objects=count) for name, (size, count) in sizes.items()]
        return DiskParts(root=root, total=sum(part.size for part in parts), parts=sorted(parts, key=lambda part: -part.size))

    def _images_used(self) -> list[ImageSummary]:
        shared = self.rooms.images.usage().shared_bytes
        users = self.rooms.containers.image_users()
        return [self.image_summary(image, shared.get(image.id, 0), containers=users[image.id]) for image in self.rooms.images.list()]

    async def _containers_used(self) -> list[ContainerSummary]:
        return list(await self.list_containers(all=True, limit=0, size=True, filters={}, since="", before=""))

    def _volumes_used(self) -> list[Volume]:
        rows = []
        users = self.rooms.containers.volume_users()
        for volume in self.rooms.volumes.list():
            row = shown(volume)
            try:
                size = self.rooms.volumes.usage(volume.name)
            except (NotFound, FileNotFoundError):  # it went meanwhile
                continue
            row.usage_data = VolumeUsage(size=size, ref_count=users[volume.name])
            rows.append(row)
        return rows

    def _cache_used(self) -> list[BuildCacheRecord]:
        rooms = self.rooms
        images = {str(layer) for image in rooms.images.list(every=True) for layer in image.chain_ids}
        bases = []
        for name in cache.bases(rooms.records, rooms.snapshotter.items(), images):
            with suppress(SnapshotMissing):  # it went meanwhile
                size = rooms.snapshotter.usage(name)
                bases.append(
                    BuildCacheRecord(id=name.removeprefix("sha256:"), type="regular", description="base of cached steps", size=size)
                )
        return bases + [
            BuildCacheRecord(
                id=item.id,
                parents=[item.parent] if item.parent else None,
                type=item.kind,
                description=item.description,
                in_use=item.in_use,
                shared=item.shared,
                size=item.size_bytes,
                created_at=item.created,
                last_used_at=rfc3339(int(item.used_at * 1e9)) if item.used_at else None,
                usage_count=item.uses,
            )
            for item in cache.usage(rooms.records, images, cache_mounts.sizes(rooms.settings.data_root))
        ]
