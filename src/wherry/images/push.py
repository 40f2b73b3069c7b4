"""Push: an image goes to a registry as a Docker schema 2 manifest (an OCI one with layers of zstd), and only what it lacks is sent.

A layer's digest there is remembered with the repositories that hold it, so a second push asks and sends nothing, a push beside it
mounts, and a layer is compressed only while it is being sent. What does not become smaller is sent as it is: its digest is known already,
and nobody has to unpack it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType

from wherry.errors import Internal
from wherry.images.blocking import Run, produce
from wherry.images.catalog import Catalog, Image
from wherry.images.compression import BLOCK
from wherry.images.layers import Layers
from wherry.images.outgoing import Gzipped, Plain, is_dense
from wherry.images.progress import Emit, Meter, aux, retrying, status
from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.repository import Repository
from wherry.registry.transport import Refused, RegistryError
from wherry.spec import image as spec
from wherry.spec.digest import Digest
from wherry.spec.reference import Reference
from wherry.store.content import Content
from wherry.store.layer import NullSink
from wherry.tree.tar import Sink

_KINDS = {  # of a layer that was pulled or pushed before -> as what a schema 2 manifest names it, which has no word for zstd
    spec.DOCKER_LAYER_GZIP: spec.DOCKER_LAYER_GZIP,
    spec.OCI_LAYER_GZIP: spec.DOCKER_LAYER_GZIP,
    spec.DOCKER_LAYER: spec.DOCKER_LAYER,
    spec.OCI_LAYER: spec.DOCKER_LAYER,
    spec.DOCKER_LAYER_ZSTD: spec.OCI_LAYER_ZSTD,
    spec.OCI_LAYER_ZSTD: spec.OCI_LAYER_ZSTD,
}
_IN_OCI = {spec.DOCKER_LAYER_GZIP: spec.OCI_LAYER_GZIP, spec.DOCKER_LAYER: spec.OCI_LAYER}
_OTHER_REFUSALS = frozenset({401, 403, 404, 429})  # of a manifest, that have nothing to do with what is in it
_PLAIN_FROM = 1 << 20  # bytes; below that the difference is not worth a look


@dataclass(frozen=True, slots=True, kw_only=True)
class Pusher:
    """What pushes have in common.  ``attend``: runs work in a thread, which may wait for the registry.

    ``strict``: registries that refused a manifest with a plain layer or one of zstd, as some do that know gzip alone.
    """

    catalog: Catalog
    content: Content
    layers: Layers
    registry: Client
    attend: Run
    at_once: int
    strict: set[str] = field(default_factory=set)

    async def push(self, reference: Reference, image: Image, credentials: Credentials, emit: Emit) -> Digest:
        """Send ``image`` under the tag of ``reference``; the manifest's digest.  Raises EngineError in Docker's words."""
        repository = self.registry.repository(reference, credentials, push=True)
        tag = reference.tag or "latest"
        try:
            await repository.reach()
            async with asyncio.TaskGroup() as group:
                layers = group.create_task(self._layers(repository, image, emit))
                config = group.create_task(self._config(repository, image))
            raw, media_type = manifest(config.result(), layers.result())
            try:
                digest = await repository.put_manifest(tag, raw, media_type)
            except Refused as error:
                taken = {diff_id: item for diff_id, item in zip(image.diff_ids, layers.result(), strict=True) if _is_gzip(item)}
                if len(taken) == len(set(image.diff_ids)) or not 400 <= error.status < 500 or error.status in _OTHER_REFUSALS:
                    raise
                self.strict.add(repository.domain)
                raw, media_type = manifest(config.result(), await self._layers(repository, image, emit, taken))
                digest = await repository.put_manifest(tag, raw, media_type)
        except RegistryError as error:
            raise Internal(str(error)) from error
        except ExceptionGroup as group:
            raise _first(group) from group
        except OSError as error:
            raise Internal(str(error)) from error
        self.catalog.name(reference.with_digest(digest), image.id)
        emit(status(f"{tag}: digest: {digest} size: {len(raw)}"))
        emit(aux({"Tag": tag, "Digest": str(digest), "Size": len(raw)}))
        return digest

    async def _layers(
        self, repository: Repository, image: Image, emit: Emit, taken: Mapping[Digest, spec.Descriptor] = MappingProxyType({})
    ) -> list[spec.Descriptor]:
        """``taken``: what the registry has been given, so that it need not be looked at."""
        order = [position for position in reversed(range(len(image.diff_ids))) if image.diff_ids[position] not in taken]
        for position in order:
            emit(status("Preparing", image.diff_ids[position].hex[:12]))
        slots = asyncio.Semaphore(self.at_once)
        async with asyncio.TaskGroup() as group:
            tasks: dict[Digest, asyncio.Task[spec.Descriptor]] = {}
            for position in order:
                diff_id = image.diff_ids[position]
                if diff_id not in tasks:  # the same layer twice in one image is one blob
                    tasks[diff_id] = group.create_task(self._layer(repository, image, position, slots, emit))
        return [taken.get(diff_id) or tasks[diff_id].result() for diff_id in image.diff_ids]

    async def _layer(self, repository: Repository, image: Image, position: int, slots: asyncio.Semaphore, emit: Emit) -> spec.Descriptor:
        diff_id = image.diff_ids[position]
        short = diff_id.hex[:12]
        if slots.locked():
            emit(status("Waiting", short))
        async with slots:
            place = f"{repository.domain}/{repository.path}"
            known = self.layers.blob(diff_id)
            kind = _KINDS.get(known.media_type)
            if known.digest and kind and (kind == spec.DOCKER_LAYER_GZIP or repository.domain not in self.strict):
                blob = spec.Descriptor(media_type=kind, digest=Digest(known.digest), size=known.size)
                if await repository.has_blob(blob.digest) == blob.size:
                    emit(status("Layer already exists", short))
                    return self._sent(diff_id, blob, place)
                source = _other_place(known.places, repository)
                if source and await repository.mount(blob.digest, source):
                    emit(status(f"Mounted from {source}", short))
                    return self._sent(diff_id, blob, place)
                if self.content.has(blob.digest):
                    meter = Meter(emit, "Pushing", short, blob.size)
                    waiting = retrying(emit, short)
                    await repository.upload(lambda: self._stored(blob.digest, meter), blob.digest, size=blob.size, waiting=waiting)
                    emit(status("Pushed", short))
                    return self._sent(diff_id, blob, place)
            meter = Meter(emit, "Pushing", short, image.layer_sizes[position])
            blob = await self._send(repository, image, position, meter, retrying(emit, short))
            emit(status("Pushed", short))
            return self._sent(diff_id, blob, place)

    def _sent(self, diff_id: Digest, blob: spec.Descriptor, place: str) -> spec.Descriptor:
        self.layers.remember(diff_id, digest=blob.digest, size=blob.size, media_type=blob.media_type, place=place)
        return blob

    async def _send(
        self, repository: Repository, image: Image, position: int, meter: Meter, waiting: Callable[[int], None]
    ) -> spec.Descriptor:
        """Send the layer's tar, compressed if that makes it smaller: what it is there."""
        chain_id, diff_id = image.chain_ids[position], image.diff_ids[position]
        may_be_plain = repository.domain not in self.strict and image.layer_sizes[position] >= _PLAIN_FROM
        is_plain = may_be_plain and await self.attend(self._is_dense, chain_id)
        size = await self.attend(self.layers.tar_length, chain_id, diff_id) if is_plain else None
        sent: list[spec.Descriptor] = []

        async def body() -> AsyncGenerator[bytes, None]:
            outgoing = Plain(diff_id) if is_plain else Gzipped()

            def write(out: Sink) -> None:
                with outgoing.into(out):
                    (self.layers.write_unchecked if is_plain else self.layers.write_tar)(chain_id, diff_id, outgoing)
                    sent[:] = [outgoing.finish()]

            async with aclosing(produce(self.attend, write)) as chunks:
                async for chunk in chunks:
                    meter(outgoing.plain_bytes)
                    yield chunk

        try:
            await repository.upload(body, diff_id if is_plain else lambda: sent[0].digest, size=size, waiting=waiting)
        except RegistryError:
            if is_plain:  # the digest was looked at by the registry alone
                await self.attend(self.layers.write_tar, chain_id, diff_id, NullSink())
            raise
        if size is not None:  # a registry that counts answers to the last byte, whether or not the thread has come to its end
            return spec.Descriptor(media_type=spec.DOCKER_LAYER, digest=diff_id, size=size)
        return sent[0]

    def _is_dense(self, chain_id: Digest) -> bool:
        with self.layers.snapshotter.contents(chain_id) as contents:
            return is_dense(contents)

    async def _stored(self, digest: Digest, meter: Meter) -> AsyncGenerator[bytes, None]:
        def write(out: Sink) -> None:
            with self.content.open(digest) as blob:
                shutil.copyfileobj(blob, out, BLOCK)

        done = 0
        async with aclosing(produce(self.attend, write)) as chunks:
            async for chunk in chunks:
                done += len(chunk)
                meter(done)
                yield chunk

    async def _config(self, repository: Repository, image: Image) -> spec.Descriptor:
        digest = Digest(image.id)
        if await repository.has_blob(digest) is None:

            async def body() -> AsyncGenerator[bytes, None]:
                yield image.raw

            await repository.upload(body, digest, size=len(image.raw))
        return spec.Descriptor(media_type=spec.DOCKER_CONFIG, digest=digest, size=len(image.raw))


def manifest(config: spec.Descriptor, layers: list[spec.Descriptor]) -> tuple[bytes, str]:
    """A schema 2 manifest with the bytes that Docker would write (keys in its order, three spaces), and its media type.

    Docker puts zstd into one as well and calls it gzip; here it is the OCI's then.
    """
    is_oci = any(layer.media_type == spec.OCI_LAYER_ZSTD for layer in layers)
    media_type = spec.OCI_MANIFEST if is_oci else spec.DOCKER_MANIFEST

    def written(item: spec.Descriptor, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "size": item.size, "digest": str(item.digest)}

    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": written(config, spec.OCI_CONFIG if is_oci else spec.DOCKER_CONFIG),
        "layers": [written(item, _IN_OCI.get(item.media_type, item.media_type) if is_oci else item.media_type) for item in layers],
    }
    return json.dumps(document, indent=3).encode(), media_type


def _is_gzip(layer: spec.Descriptor) -> bool:
    return layer.media_type == spec.DOCKER_LAYER_GZIP


def _other_place(places: tuple[str, ...], repository: Repository) -> str:
    """Another repository of the same registry that holds the blob, or nothing."""
    prefix = repository.domain + "/"
    here = prefix + repository.path
    return next((place.removeprefix(prefix) for place in places if place.startswith(prefix) and place != here), "")


def _first(group: BaseExceptionGroup[BaseException]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, RegistryError | OSError | ValueError):
        return Internal(str(error))
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
