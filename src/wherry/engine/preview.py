"""What prunes would remove, one after the other, told without removing anything: ``--dry-run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wherry.build import cache, cache_mounts
from wherry.containers.container import Container
from wherry.engine.builds import BuildOperations
from wherry.engine.cache_choice import cache_choice
from wherry.engine.disk import DiskOperations
from wherry.engine.rooms import Rooms
from wherry.images.removal import ContainerUse
from wherry.spec.docker.image import ImageDeleted
from wherry.spec.docker.preview import PrunePreview
from wherry.spec.docker.request import CachePrune, Filters
from wherry.store.garbage import Roots


class PreviewOperations(DiskOperations, BuildOperations):
    async def preview_prune(self, wanted: Mapping[str, Filters], request: CachePrune) -> PrunePreview:
        """``wanted``: what kinds (containers, networks, volumes, images, build-cache), in this order, and with which filters."""
        containers = self.prunable_containers(wanted["containers"]) if "containers" in wanted else ()
        return await _Preview(self.rooms, wanted, request).told(containers)


class _Preview:
    """Everything is asked as it would be after what goes before."""

    def __init__(self, rooms: Rooms, wanted: Mapping[str, Filters], request: CachePrune) -> None:
        self._rooms = rooms
        self._wanted = wanted
        self._request = request
        self._gone: set[str] = set()  # containers and images
        self._cached = cache.layers(rooms.records)
        self._found = PrunePreview()

    async def told(self, containers: Sequence[Container]) -> PrunePreview:
        self._gone |= {container.id for container in containers}
        self._found.containers_deleted = [container.id for container in containers]
        if "networks" in self._wanted:
            self._found.networks_deleted = [record.name for record in self._rooms.networks.prunable(self._wanted["networks"])]
        await self._rooms.attendants.run(self._ask)
        return self._found

    def _ask(self) -> None:
        if "volumes" in self._wanted:
            self._volumes(self._wanted["volumes"])
        if "images" in self._wanted:
            self._images(self._wanted["images"])
        if "build-cache" in self._wanted:
            self._cache(self._wanted["build-cache"])
        self._found.space_reclaimed += sum(size for _, size in self._unreferenced())

    def _volumes(self, filters: Filters) -> None:
        volumes = self._rooms.volumes
        for volume in volumes.prunable(filters, in_use=lambda name: self._left(self._rooms.containers.using_volume(name))):
            self._found.volumes_deleted.append(volume.name)
            self._found.space_reclaimed += volumes.usage(volume.name)

    def _images(self, filters: Filters) -> None:
        found = self._rooms.containers.using_image

        def users(ident: str) -> list[ContainerUse]:
            return [ContainerUse(id=one.id, running=one.is_running) for one in found(ident) if one.id not in self._gone]

        images, freed = self._rooms.images.preview_prune(filters, in_use=users)
        self._found.space_reclaimed += freed
        before = {name for name, _ in self._unreferenced()}
        self._gone |= {image.id for image in images}
        for image in images:
            self._found.images_deleted += [ImageDeleted(untagged=name) for name in (*image.repo_tags, *image.repo_digests)]
            self._found.images_deleted.append(ImageDeleted(deleted=image.id))
        self._found.images_deleted += [ImageDeleted(deleted=name) for name, _ in self._unreferenced() if name not in before]

    def _cache(self, filters: Filters) -> None:
        choice = cache_choice(self._request, filters, self._rooms.settings.data_root)
        if choice is not None:
            choice = replace(choice, mounts=cache_mounts.sizes(self._rooms.settings.data_root))
            self._found.caches_deleted, self._cached = cache.preview(self._rooms.records, self._layers(), choice)
            self._found.space_reclaimed += sum(choice.mounts.get(key, 0) for key in self._found.caches_deleted)

    def _left(self, idents: Sequence[str]) -> list[str]:
        return [ident for ident in idents if ident not in self._gone]

    def _layers(self) -> set[str]:
        return {str(layer) for image in self._rooms.images.list(every=True) if image.id not in self._gone for layer in image.chain_ids}

    def _unreferenced(self) -> list[tuple[str, int]]:
        keys = {container.record.snapshot for container in self._rooms.containers.all() if container.id not in self._gone}
        roots = Roots(snapshots=frozenset(self._layers() | keys | self._cached))
        return [(name, size) for kind, name, size in self._rooms.garbage.unreferenced(roots) if kind == "layer"]
