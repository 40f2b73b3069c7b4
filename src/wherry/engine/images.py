"""Operations on images, as the API asks for them (``api/ports.Images``, but for builds)."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from typing import TypeVar

import msgspec

from wherry.containers.container import Container
from wherry.containers.lifecycle import Status
from wherry.containers.present import rfc3339
from wherry.engine.containers import ContainerOperations
from wherry.engine.gate import Gate
from wherry.engine.rooms import Rooms
from wherry.errors import Conflict, EngineError, InvalidRequest, told
from wherry.images import fetch, search, timestamp
from wherry.images.blocking import finish
from wherry.images.catalog import Image
from wherry.images.changes import apply_changes, merged
from wherry.images.removal import ContainerUse
from wherry.registry.credentials import Credentials
from wherry.spec import image as spec
from wherry.spec.docker.container import Config, GraphDriver
from wherry.spec.docker.image import (
    Descriptor,
    Distribution,
    HistoryEntry,
    ImageConfig,
    ImageDeleted,
    ImageInspect,
    ImageMetadata,
    ImagesPruned,
    ImageSummary,
    Platform,
    RootFS,
    SearchResult,
)
from wherry.spec.docker.request import CommitRequest, Filters, ImportRequest
from wherry.spec.docker.system import AuthConfig, Authenticated
from wherry.spec.reference import InvalidReference, parse, parse_tag
from wherry.store.garbage import UNNAMED
from wherry.store.snapshot import SnapshotMissing, stacked

Progress = Mapping[str, object]
_Value = TypeVar("_Value")
EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"  # a tar without entries


class ImageOperations(ContainerOperations):
    rooms: Rooms
    gate: Gate

    # --- look

    async def list_images(self, *, all: bool, filters: Filters, shared_size: bool, containers: bool) -> Sequence[ImageSummary]:
        images = self.rooms.images
        shared = images.usage().shared_bytes if shared_size else {}
        users = self.rooms.containers.image_users() if containers else None
        return [
            self.image_summary(
                image,
                shared.get(image.id, 0) if shared_size else -1,
                containers=-1 if users is None else users[image.id],
            )
            for image in images.list(filters, every=all)
        ]

    def image_summary(self, image: Image, shared_bytes: int, containers: int = -1) -> ImageSummary:
        return ImageSummary(
            containers=containers,
            created=image.created_ns // 1_000_000_000,
            id=image.id,
            labels=_sorted(image.labels) or None,
            parent_id=image.parent,
            repo_digests=list(image.repo_digests),
            repo_tags=list(image.repo_tags),
            shared_size=shared_bytes,
            size=image.size_bytes,
        )

    async def inspect_image(self, ref: str, *, platform: spec.Platform | None) -> ImageInspect:
        image = self.rooms.images.resolve(ref, platform)
        config = image.config
        return ImageInspect(
            id=image.id,
            repo_tags=list(image.repo_tags),
            repo_digests=list(image.repo_digests),
            parent=image.parent,
            comment=config.comment or (config.history[-1].comment if config.history else ""),
            created=config.created or "",
            docker_version=config.docker_version,
            author=config.author,
            architecture=config.architecture,
            variant=config.variant,
            os=config.platform.os,
            os_version=config.os_version,
            size=image.size_bytes,
            graph_driver=GraphDriver(data=self._graph(image), name=self.rooms.snapshotter.name),
            root_fs=RootFS(layers=[str(diff_id) for diff_id in image.diff_ids] or None),
            metadata=ImageMetadata(last_tag_time=rfc3339(image.tagged_at_ns) if image.tagged_at_ns else timestamp.ZERO),
            config=_shown_config(config.settings),
        )

    def _graph(self, image: Image) -> dict[str, str]:
        if image.top is None:
            return {}
        try:
            rootfs = self.rooms.snapshotter.view(image.top)
        except SnapshotMissing:  # told by `system fsck`; the image can be looked at and removed
            return {}
        upper, *lower = rootfs.lower or (rootfs.upper or "",)
        return {"UpperDir": upper, **({"LowerDir": ":".join(lower)} if lower else {})}

    async def image_history(self, ref: str, *, platform: spec.Platform | None) -> Sequence[HistoryEntry]:
        return [
            HistoryEntry(
                comment=entry.comment,
                created=entry.created_ns // 1_000_000_000,
                created_by=entry.created_by,
                id=entry.id,
                size=entry.size_bytes,
                tags=list(entry.tags) or None,
            )
            for entry in self.rooms.images.history(ref, platform)
        ]

    async def search_images(self, term: str, *, limit: int, filters: Filters, auth: AuthConfig | None) -> Sequence[SearchResult]:
        is_wanted = search.condition(filters)
        found = await self.rooms.images.registries.search(term, limit=limit)
        return [msgspec.convert(one, SearchResult) for one in found if is_wanted(one)]

    async def inspect_distribution(self, reference: str, *, auth: AuthConfig | None) -> Distribution:
        descriptor, platforms = await self.rooms.images.registries.distribution(reference, credentials(auth))
        return Distribution(
            descriptor=Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size),
            platforms=[Platform(architecture=one.architecture, os=one.os, variant=one.variant) for one in platforms],
        )

    async def check_auth(self, auth: AuthConfig) -> Authenticated:
        token = await self.rooms.images.registries.login(credentials(auth))
        return Authenticated(identity_token=token, status="Login Succeeded")

    # --- names and removal

    async def tag_image(self, ref: str, *, repo: str, tag: str) -> None:
        if not repo:
            raise InvalidRequest("invalid reference format")
        await self.rooms.workers.run(self.rooms.images.tag, ref, _new_name(repo, tag))

    async def remove_image(self, ref: str, *, force: bool, prune: bool, platform: spec.Platform | None) -> Sequence[ImageDeleted]:
        if not ref.strip():
            raise InvalidRequest("image name cannot be blank")
        async with self.gate.removal():
            removed = await self.rooms.workers.run(
                self.rooms.images.remove, ref, force=force, prune=prune, platform=platform, in_use=self._users_of_image
            )
            await self.rooms.workers.run(self.rooms.furniture.forget_gone, self.rooms.snapshotter)
        return [_deleted(step) for step in removed]

    async def prune_images(self, filters: Filters) -> ImagesPruned:
        async with self.gate.removal():
            removed, freed = await self.rooms.workers.run(self.rooms.images.prune, filters, in_use=self._users_of_image)
            freed += (await self.rooms.workers.run(self.rooms.garbage.collect)).reclaimed_bytes
            await self.rooms.workers.run(self.rooms.furniture.forget_gone, self.rooms.snapshotter)
        self.rooms.events.publish("image", "prune", "", {"reclaimed": str(freed)})
        return ImagesPruned(images_deleted=[_deleted(step) for step in removed] or None, space_reclaimed=freed)

    def _users_of_image(self, ident: str) -> list[ContainerUse]:
        return [ContainerUse(id=one.id, running=one.is_running) for one in self.rooms.containers.using_image(ident)]

    # --- to and from elsewhere

    async def pull_image(self, reference: str, *, tag: str, platform: str, auth: AuthConfig | None) -> AsyncIterator[Progress]:
        every = not tag and not _has_tag(reference)
        name = _tagged(reference, tag) if tag else reference
        return self.rooms.images.registries.pull(name, platform=platform, credentials=credentials(auth), all_tags=every)

    async def push_image(self, name: str, *, tag: str, platform: spec.Platform | None, auth: AuthConfig | None) -> AsyncIterator[Progress]:
        if platform is not None:
            self.rooms.images.resolve(f"{name}:{tag}" if tag else name, platform)
        return self.rooms.images.registries.push(name, tag=tag, credentials=credentials(auth))

    async def save_images(self, refs: Sequence[str], *, platform: spec.Platform | None) -> AsyncIterator[bytes]:
        return self.rooms.images.save(refs, platform)

    async def load_images(self, chunks: AsyncIterator[bytes], *, quiet: bool, platform: spec.Platform | None) -> AsyncIterator[Progress]:
        return self.rooms.images.load(chunks, quiet=quiet, platform=platform)

    async def import_image(self, request: ImportRequest, chunks: AsyncIterator[bytes]) -> AsyncIterator[Progress]:
        url = "" if request.source == "-" else fetch.address(request.source)
        return self._import(request, chunks, url, _new_name(request.repo, request.tag))

    async def _import(self, request: ImportRequest, chunks: AsyncIterator[bytes], url: str, name: str) -> AsyncIterator[Progress]:
        async with fetch.opened(url, self.rooms.settings.proxies) if url else nullcontext(chunks) as source:
            if url:
                yield {"status": f"Downloading from {url}"}
            image = await self.rooms.images.import_(
                source, name=name, message=request.message, changes=request.changes, platform=request.platform, source=request.source
            )
        yield {"status": image.id}

    # --- commit

    async def commit_container(self, request: CommitRequest, config: Config | None) -> str:
        tag = _new_name(request.repo, request.tag)
        if not request.container:
            raise InvalidRequest('invalid name or ID supplied: ""')
        container = self.rooms.containers.get(request.container)
        paused = False
        with suppress(Conflict):  # it has just ended, or somebody else paused it: there is nothing to stop
            if request.pause and container.status is Status.RUNNING:
                await self.running.pause(container)
                paused = True
        try:
            image = await container.perform(lambda: self._commit(container, request, config, tag))
            self._publish(container, "commit", comment=request.comment, imageID=image.id, imageRef=tag)
        finally:
            if paused:
                with suppress(Conflict):  # it was ended meanwhile, or let go on
                    await self.running.unpause(container)
        return image.id

    async def _commit(self, container: Container, request: CommitRequest, config: Config | None, tag: str) -> Image:
        """To be called by what is its turn: it may have been removed before that came."""
        rooms, record = self.rooms, container.record
        if container.status is Status.REMOVING:
            raise Conflict(f"You cannot commit container {container.id} which is being removed")
        if container.status is Status.DEAD:
            raise Conflict(f"You cannot commit container {container.id} which is Dead")
        whole = _image_config(record.config)
        settings = merged(apply_changes(_image_config(config) if config else whole, list(request.changes)), whole)
        try:
            base = rooms.images.get(record.image_id) if record.image_id else None
        except EngineError as error:
            raise InvalidRequest(f"the image of container {record.name} is gone: {error}") from error
        layers = rooms.images.layers
        with ExitStack() as held:
            with layers.hold([UNNAMED]):
                try:
                    facts = await rooms.attendants.run(rooms.snapshotter.capture, record.snapshot)
                except OSError as error:
                    if error.errno != errno.EFBIG:
                        raise
                    raise InvalidRequest(f"what container {record.name} has written is too much for a layer: {told(error)}") from error
                chain_id = stacked(base.top if base else None, facts.diff_id)
                is_empty = base is not None and facts.diff_id == EMPTY_LAYER
                if not is_empty:
                    held.enter_context(layers.hold([chain_id]))
            if is_empty:
                await rooms.workers.run(rooms.images.forget_layer, chain_id)
            commit = partial(
                rooms.images.commit,
                base=base,
                config=settings,
                diff_id=None if is_empty else facts.diff_id,
                container_id=record.id,
                container_config=_image_config(record.config),
                author=request.author,
                comment=request.comment,
                created_by=" ".join(record.config.cmd or ()),
                tags=[tag] if tag else [],
            )
            return await finish(rooms.workers.run(commit))


def _sorted(items: Mapping[str, _Value]) -> dict[str, _Value]:
    """As Go writes a map."""
    return {name: items[name] for name in sorted(items)}


def _shown_config(settings: spec.Config) -> ImageConfig:
    shown = msgspec.convert(msgspec.to_builtins(settings), ImageConfig)
    for field in ("exposed_ports", "labels", "volumes"):
        value = getattr(shown, field)
        if value:
            setattr(shown, field, _sorted(value))
    return shown


def _new_name(repo: str, tag: str) -> str:
    """The whole name that an image gets, as people write it; empty for none.  Raises InvalidRequest in Docker's words."""
    if not repo:
        return ""
    try:
        reference = parse(repo)
        if reference.digest is not None:
            raise InvalidRequest("cannot import digest reference")
        return parse_tag(str(reference.with_tag(tag) if tag else reference)).familiar
    except InvalidReference as error:
        raise InvalidRequest(str(error)) from error


def _image_config(config: Config) -> spec.Config:
    """What of a container's Config travels with an image: everything but what is this one container's."""
    kept = {
        key: value
        for key, value in msgspec.to_builtins(config).items()
        if key not in ("Hostname", "Domainname", "Image") and value is not None
    }
    for key in ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"):
        kept.pop(key, None)
    return msgspec.convert(kept, spec.Config)


def credentials(auth: AuthConfig | None) -> Credentials:
    if auth is None:
        return Credentials()
    return Credentials(
        username=auth.username,
        password=auth.password,
        identity_token=auth.identitytoken,
        registry_token=auth.registrytoken,
        server_address=auth.serveraddress,
    )


def _tagged(text: str, tag: str) -> str:
    """``text`` at ``tag``, a tag or digest, in place of what it names itself.  Raises InvalidRequest."""
    try:
        reference = parse(text)
        return str(reference.with_digest(tag) if tag.startswith("sha256:") else reference.with_tag(tag))
    except InvalidReference as error:
        raise InvalidRequest(str(error)) from error


def _has_tag(reference: str) -> bool:
    return ":" in reference.rpartition("/")[2] or "@" in reference


def _deleted(step: Mapping[str, str]) -> ImageDeleted:
    return ImageDeleted(untagged=step.get("Untagged", ""), deleted=step.get("Deleted", ""))
