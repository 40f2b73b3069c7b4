"""Pull: names and blobs of a registry become an image here.

What is here already is not asked for; layers come down side by side, are unpacked in order and while they come; a blob that two pulls want
is fetched once. The image exists only when everything has been checked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from wherry.errors import EngineError, Forbidden, Internal, InvalidRequest, NotFound, TooManyRequests, Unauthorized, told
from wherry.images import kinds, platforms
from wherry.images.arrivals import Broken
from wherry.images.blocking import Run, settle
from wherry.images.catalog import Catalog, Image
from wherry.images.downloads import Download, Downloads
from wherry.images.flights import Flights
from wherry.images.layers import Layers
from wherry.images.progress import Emit, Meter, Record, about, once, retrying, status
from wherry.images.soundness import is_whole
from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.repository import Fetched, Repository
from wherry.registry.transport import Refused, RegistryError, Unreachable, Untrusted
from wherry.spec import image as spec
from wherry.spec.digest import Digest, chain_ids
from wherry.spec.image import Descriptor, Index, InvalidDocument, Manifest, Platform
from wherry.spec.reference import Reference
from wherry.store.content import Content, ContentMismatch
from wherry.store.layer import DigestMismatch
from wherry.tree.compression import BadStream
from wherry.tree.tar import InvalidArchive

_MAX_NESTING = 3
_REFUSALS: dict[str, type[EngineError]] = {"UNAUTHORIZED": Unauthorized, "DENIED": Forbidden, "TOOMANYREQUESTS": TooManyRequests}


@dataclass(frozen=True, slots=True, kw_only=True)
class Puller:
    """What pulls have in common.  ``attend``: as ``run``, for work that waits for what others bring."""

    catalog: Catalog
    content: Content
    downloads: Downloads
    layers: Layers
    registry: Client
    flights: Flights
    run: Run
    attend: Run
    at_once: int

    async def pull(self, reference: Reference, wanted: Platform | None, credentials: Credentials, emit: Emit) -> Image:
        """As ``bring``, with the last words of a pull."""
        if reference.familiar_name == "scratch":
            raise InvalidRequest("'scratch' is a reserved name")
        image, is_new = await self.bring(reference, wanted, credentials, emit)
        reference = reference.with_default_tag()
        emit(outcome(reference.familiar, is_new=is_new))
        if wanted is not None and not platforms.matches(wanted, image.config.platform):
            found = platforms.show(image.config.platform)
            emit(
                status(
                    f"WARNING: image with reference {reference.familiar} was found but its platform ({found}) "
                    f"does not match the specified platform ({platforms.show(wanted)})"
                )
            )
        return image

    async def bring(self, reference: Reference, wanted: Platform | None, credentials: Credentials, emit: Emit) -> tuple[Image, bool]:
        """Bring ``reference`` here and give it its name; whether it had none. What a mirror can't give comes from the registry.

        Raises EngineError in Docker's words.
        """
        reference = reference.with_default_tag()
        *mirrors, registry = self.registry.sources(reference, credentials)
        for mirror in mirrors:
            with suppress(EngineError):
                return await self._bring(mirror, reference, wanted, emit)
        return await self._bring(registry, reference, wanted, emit)

    async def _bring(self, repository: Repository, reference: Reference, wanted: Platform | None, emit: Emit) -> tuple[Image, bool]:
        shown = str(reference) if reference.digest else reference.tag or ""
        begin = about(f"Pulling from {reference.path}", shown)
        try:
            if wanted is None and (same := await self._unchanged(repository, reference)):
                emit(begin)
                emit(status(f"Digest: {same[1]}"))
                return same[0], False
            fetched = await repository.manifest(reference.digest or reference.tag or "")
            try:
                document = spec.decode(fetched.raw, fetched.media_type)
            except spec.Schema1 as error:
                emit(begin)
                raise kinds.schema1(reference) from error
            if isinstance(document, Manifest):
                kinds.refuse_class(document)
            emit(begin)
            before = self.catalog.named(reference)
            manifest = await self._choose(repository, document, wanted or platforms.host())
            kinds.refuse_parts(manifest)
            image = await self._image(repository, manifest, reference, fetched.digest, emit)
        except (RegistryError, InvalidDocument) as error:
            raise translate(error, reference) from error
        except (ContentMismatch, DigestMismatch, InvalidArchive, BadStream) as error:
            raise Internal(f"failed to register layer: {error}") from error
        except ExceptionGroup as group:
            raise _first(group, reference) from group
        except OSError as error:
            raise Internal(f"failed to register layer: {told(error)}") from error
        emit(status(f"Digest: {fetched.digest}"))
        return image, before != image.id

    async def _unchanged(self, repository: Repository, reference: Reference) -> tuple[Image, Digest] | None:
        """The image that has this name here, and its digest there, if the registry says that the tag is where it was.

        Docker Hub counts such a question as no pull.
        """
        ident = self.catalog.named(reference)
        if ident is None or reference.digest or not reference.tag:
            return None
        if not any(one.digest and one.name == reference.name for one in self.catalog.references(ident)):
            return None
        try:
            digest = Digest(await repository.names(reference.tag))
        except ValueError:
            return None
        except Refused as error:
            if error.is_passing:
                raise
            return None  # the manifest itself is refused in more words
        if self.catalog.named(reference.with_digest(digest)) != ident:
            return None
        image = self._named(ident, [reference])
        return (image, digest) if image and platforms.matches(platforms.host(), image.config.platform) else None

    async def inspect(self, reference: Reference, credentials: Credentials) -> tuple[Descriptor, list[Platform]]:
        """What the registry has under this name, without pulling it.  Source: Engine API DistributionInspect."""
        reference = reference.with_default_tag()
        try:
            repository, fetched = await self._manifest(reference, credentials)
            document = spec.decode(fetched.raw, fetched.media_type)
            if isinstance(document, Index):
                found = [item.platform for item in document.manifests if item.platform is not None]
            else:
                config = spec.decode_config(await repository.document(document.config, spec.CONFIG_LIMIT))
                found = [config.platform]
        except RegistryError as error:
            raise refusal(error, str(error)) from error
        except InvalidDocument as error:
            raise Internal(str(error)) from error
        media_type = document.media_type or fetched.media_type
        return Descriptor(media_type=media_type, digest=fetched.digest, size=len(fetched.raw)), found

    async def _manifest(self, reference: Reference, credentials: Credentials) -> tuple[Repository, Fetched]:
        """From the first source that has it; a mirror that fails is passed over."""
        what = reference.digest or reference.tag or ""
        *mirrors, registry = self.registry.sources(reference, credentials)
        for mirror in mirrors:
            try:
                return mirror, await mirror.manifest(what)
            except RegistryError:
                continue
        return registry, await registry.manifest(what)

    async def _choose(self, repository: Repository, document: Manifest | Index, wanted: Platform) -> Manifest:
        for _ in range(_MAX_NESTING):
            if isinstance(document, Manifest):
                return document
            chosen = platforms.select(document.manifests, wanted)
            fetched = await repository.manifest(chosen.digest)
            document = spec.decode(fetched.raw, fetched.media_type)
        raise Untrusted("an image index within an index within an index")

    async def _image(self, repository: Repository, manifest: Manifest, reference: Reference, digest: Digest, emit: Emit) -> Image:
        ident = str(manifest.config.digest)
        references = [reference.with_digest(digest)] + ([reference] if reference.digest is None else [])
        place = f"{repository.domain}/{repository.path}"
        if (known := self._named(ident, references)) is not None:
            await self.downloads.forget(manifest.layers)
            self.layers.seen(zip(known.diff_ids, (layer.digest for layer in manifest.layers), strict=False), place)
            return known
        try:
            raw = await repository.document(manifest.config, spec.CONFIG_LIMIT)
        except RegistryError as error:
            failed = "download failed after attempts=1: " if isinstance(error, Refused) else ""
            raise Internal(f"error pulling image configuration: {failed}{_words(error)}") from error
        config = spec.decode_config(raw)
        kinds.refuse_system(config)
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise Untrusted("layers from manifest don't match image configuration")
        chain = chain_ids(diff_ids)
        with self.layers.hold([*chain, *diff_ids, ident, *(layer.digest for layer in manifest.layers)]):
            present = 0
            while present < len(chain) and self.layers.exists(chain[present]):
                present += 1
            if present:
                await self.downloads.forget(manifest.layers[:present])
                self.layers.seen(zip(diff_ids[:present], (layer.digest for layer in manifest.layers[:present]), strict=True), place)
            async with self.downloads.wanting(repository, manifest.layers[present:]) as downloads:  # until the image is there
                await self._layers(repository, manifest, diff_ids, present, downloads, emit)
                sizes = await self.run(self.layers.sizes, chain)
                with self.catalog.transaction():  # somebody may remove it as soon as others see it
                    return self.catalog.get(self.catalog.put(raw, sizes, references=references))

    def _named(self, ident: str, references: Sequence[Reference]) -> Image | None:
        """The image ``ident`` under its further names, if all of it is here."""
        with self.catalog.transaction():  # another thread may be about to remove it
            if not self.catalog.has(ident) or not is_whole(ident, self.catalog, self.content, self.layers):
                return None
            for item in references:
                self.catalog.name(item, ident)
            return self.catalog.get(ident)

    async def _layers(
        self,
        repository: Repository,
        manifest: Manifest,
        diff_ids: list[Digest],
        present: int,
        downloads: dict[Digest, Download],
        emit: Emit,
    ) -> None:
        """Layers come down side by side; each is unpacked while it comes, as soon as the one below it is there."""
        chain = chain_ids(diff_ids)
        emit = once(emit)
        for position, layer in enumerate(manifest.layers):
            emit(status("Already exists" if position < present else "Pulling fs layer", layer.digest.hex[:12]))
        slots = asyncio.Semaphore(self.at_once)
        async with asyncio.TaskGroup() as group:
            fetches = {digest: group.create_task(self._fetch(repository, one, slots, emit)) for digest, one in downloads.items()}
            for position in range(present, len(chain)):
                layer = manifest.layers[position]
                parent = chain[position - 1] if position else None
                step = _Step(downloads[layer.digest], fetches[layer.digest], chain[position], parent, diff_ids[position])
                await self._unpack(step, emit)
                place = f"{repository.domain}/{repository.path}"
                self.layers.remember(diff_ids[position], digest=layer.digest, size=layer.size, media_type=layer.media_type, place=place)

    async def _fetch(self, repository: Repository, download: Download, slots: asyncio.Semaphore, emit: Emit) -> None:
        layer = download.layer
        short = layer.digest.hex[:12]
        if slots.locked():
            emit(status("Waiting", short))
        async with slots:
            meter = Meter(emit, "Downloading", short, layer.size)
            await self.downloads.fetch(repository, download, meter, retrying(emit, short))
        emit(status("Verifying Checksum", short))
        emit(status("Download complete", short))

    async def _unpack(self, step: _Step, emit: Emit) -> None:
        """Raises what is wrong with the blob rather than what became of reading it."""
        layer = step.download.layer
        short = layer.digest.hex[:12]
        meter = Meter(emit, "Extracting", short, layer.size)

        def tell(current: int) -> None:
            if step.fetched.done():  # before that the layer's line tells of the download
                meter(current)

        while True:
            try:
                await self.flights.join(f"unpack {step.chain_id} {step.download.key}", lambda told: self._unpacked(step, told), tell)
                break
            except Broken:  # whoever fetched it gave up, and somebody else goes on
                continue
            except (BadStream, InvalidArchive, DigestMismatch):
                await step.fetched
                step.download.served = True  # the blob is what was promised, and of no use to anybody
                raise
        await step.fetched
        step.download.served = True
        meter(layer.size)
        emit(status("Pull complete", short))

    async def _unpacked(self, step: _Step, tell: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        done = Ticker(lambda current: loop.call_soon_threadsafe(tell, current))

        def unpack() -> None:
            with self.downloads.open(step.download, stop) as source:
                self.layers.unpack(step.chain_id, step.parent, step.diff_id, source, done, stop)

        unpacking = asyncio.ensure_future(self.attend(unpack))
        try:
            await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            stop.set()
            step.download.arrival.wake()
            await settle(unpacking)
            raise


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer of one pull: its blob, the task that fetches it, and the snapshot it becomes."""

    download: Download
    fetched: asyncio.Task[None]
    chain_id: Digest
    parent: Digest | None
    diff_id: Digest


class Ticker:
    """Lets a thread report each 4 MiB, not each block."""

    def __init__(self, report: Callable[[int], object], step: int = 4 << 20) -> None:
        self._report = report
        self._step = step
        self._next = 0

    def __call__(self, current: int) -> None:
        if current >= self._next:
            self._next = current + self._step
            self._report(current)


def outcome(name: str, *, is_new: bool) -> Record:
    """The last line of a pull."""
    return status(f"Status: {'Downloaded newer image' if is_new else 'Image is up to date'} for {name}")


def translate(error: Exception, reference: Reference) -> EngineError:
    """A registry's refusal in the words and with the status of Docker."""
    if isinstance(error, Refused):
        if error.code == "DENIED":
            return NotFound(
                f"pull access denied for {reference.familiar_name}, repository does not exist or may require 'docker login': {error}"
            )
        if error.code == "MANIFEST_UNKNOWN" or (error.status == 404 and not error.code):
            return NotFound(f"manifest for {reference.familiar} not found: {error}")
        if error.code == "NAME_UNKNOWN":
            return NotFound(f"repository {reference.familiar_name} not found: {error}")
    return refusal(error, _words(error))


def refusal(error: Exception, words: str) -> EngineError:
    """``words`` with the status that Docker gives them for what the registry said."""
    if isinstance(error, Refused):
        kind = NotFound if error.status == 404 else _REFUSALS.get(error.code)
        if kind is not None:
            return kind(words)
    return Internal(words)


def _words(error: Exception) -> str:
    return "unknown blob" if isinstance(error, Refused) and error.code == "BLOB_UNKNOWN" else str(error)


def is_unreachable(error: BaseException | None) -> bool:
    """Whether a pull failed because no registry answered."""
    return isinstance(error, Unreachable | TimeoutError)


def _first(group: BaseExceptionGroup[BaseException], reference: Reference) -> Exception:
    """The failure of one layer stands for all."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, EngineError):
        return error
    if isinstance(error, RegistryError | InvalidDocument):
        return translate(error, reference)
    if isinstance(error, ContentMismatch):
        return Internal(str(error))
    if isinstance(error, ValueError | OSError):
        return Internal(f"failed to register layer: {told(error)}")
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
