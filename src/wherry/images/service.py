"""Images that are here, as the engine sees them; those elsewhere: ``Images.registries``.

Blocking methods are so marked; give them to a worker thread.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial

from wherry.errors import Internal, InvalidRequest, NotFound, told
from wherry.images import archive, embedded, listing, platforms, soundness, timestamp
from wherry.images.blocking import Pipe, Run, consume, finish, produce
from wherry.images.catalog import Catalog, Image
from wherry.images.changes import apply_changes
from wherry.images.downloads import Downloads
from wherry.images.flights import Flights, Spawn
from wherry.images.layers import Hold, Layers, Needed, all_present, no_garbage
from wherry.images.listing import Filters, HistoryEntry, Usage
from wherry.images.partials import Partials
from wherry.images.progress import Emit, Record, stream
from wherry.images.pull import Puller
from wherry.images.push import Pusher
from wherry.images.registries import Registries
from wherry.images.removal import InUse, Publish, Removed, Remover
from wherry.registry.client import Client
from wherry.spec import image as spec
from wherry.spec import reference as names
from wherry.spec.digest import Digest, chain_ids
from wherry.spec.image import Config, InvalidDocument, Platform
from wherry.spec.reference import InvalidReference, Reference
from wherry.store.content import Content
from wherry.store.garbage import Roots
from wherry.store.layer import DigestMismatch
from wherry.store.parsing import Start, inline
from wherry.store.records import Records
from wherry.store.snapshot import SnapshotMissing, Snapshotter
from wherry.store.soundness import Finding
from wherry.tree.compression import BadStream
from wherry.tree.tar import InvalidArchive, Sink


def _nobody(action: str, ident: str, attributes: dict[str, str]) -> None:
    """The default for events."""


class Images:
    """Built once by the engine.

    ``run``, ``attend``: do blocking work, and such that waits for a client or a registry. ``spawn``: starts a task that outlives a
    request (the engine's TaskGroup). ``publish``: told of every image event, from any thread. ``hold``, ``put_off``: the garbage
    collector's. ``partials``: downloads to go on with. ``keeps``: chain ids that others (the build cache) want kept when no image is
    made of them any more.
    """

    def __init__(
        self,
        *,
        records: Records,
        content: Content,
        snapshotter: Snapshotter,
        registry: Client,
        run: Run,
        attend: Run,
        spawn: Spawn,
        partials: Partials,
        publish: Publish = _nobody,
        hold: Hold = no_garbage,
        put_off: Callable[[], object] = bool,
        keeps: Callable[[], set[str]] = set,
        downloads: int = 3,
        uploads: int = 5,
        start: Start = inline,
    ) -> None:
        self.catalog = Catalog(records, content)
        self.layers = Layers(records, content, snapshotter, hold, start, put_off)
        self.partials = partials
        self._records = records
        self._content = content
        self._run = run
        self._attend = attend
        self._publish = publish
        self._keeps = keeps
        self._remover = Remover(catalog=self.catalog, layers=self.layers, publish=publish, keeps=keeps)
        flights = Flights(spawn)
        puller = Puller(
            catalog=self.catalog,
            content=content,
            downloads=Downloads(
                content=content, partials=partials, flights=flights, spawn=spawn, run=run, keeps_blobs=not self.layers.keeps_tars
            ),
            layers=self.layers,
            registry=registry,
            flights=flights,
            run=run,
            attend=attend,
            at_once=downloads,
        )
        self._loader = archive.Loader(
            catalog=self.catalog,
            content=content,
            layers=self.layers,
            forget=self.forget_layer,
            needed=lambda: self.roots().content,
            start=start,
        )
        pusher = Pusher(catalog=self.catalog, content=content, layers=self.layers, registry=registry, attend=attend, at_once=uploads)
        self.registries = Registries(
            catalog=self.catalog,
            layers=self.layers,
            client=registry,
            puller=puller,
            pusher=pusher,
            run=run,
            tell=self._told,
            load_embedded=self.load_embedded,
        )

    # What is here

    def resolve(self, reference: str, platform: Platform | None = None) -> Image:
        """The image called ``name[:tag]``, ``name@digest``, an id or a unique prefix of one; it must be for ``platform`` if that is given.

        Raises NotFound, InvalidRequest, Internal for one that is damaged on disk.
        """
        image = self.find(reference)
        if image is None:
            raise NotFound(f"No such image: {_shown(reference)}")
        if image.damage:
            raise Internal(image.damage)
        _check_platform(image, reference, platform)
        return image

    def find(self, reference: str) -> Image | None:
        """As ``resolve``, or None."""
        try:
            return self.catalog.find(reference)
        except InvalidReference as error:
            raise InvalidRequest(str(error)) from error

    def get(self, ident: str) -> Image:
        """The image with the full id ``ident``.  Raises NotFound."""
        return self.catalog.get(ident)

    def list(self, filters: Filters | None = None, *, every: bool = False) -> list[Image]:
        """What ``docker images`` shows, newest first.  Raises InvalidRequest."""
        return listing.select(self.catalog, filters or {}, every=every)

    def history(self, reference: str, platform: Platform | None = None) -> Sequence[HistoryEntry]:
        return listing.history(self.catalog, self.resolve(reference, platform))

    def usage(self) -> Usage:
        return listing.usage(self.catalog)

    def roots(self) -> Roots:
        """The blobs and snapshots that images refer to, for the garbage collector."""
        content = {*self.catalog.ids(), *self.layers.roots(self.catalog.diff_id_users())}
        return Roots(content=frozenset(content), snapshots=frozenset(map(str, self.catalog.layer_users())))

    def check(self) -> Iterator[Finding]:
        """What is wrong with the images."""
        return soundness.check(self.catalog, self._content, self.layers, self._records)

    # Names

    def tag(self, source: str, target: str) -> Image:
        """Give ``source`` the further name ``target`` (``repo[:tag]``).  Raises NotFound, InvalidRequest."""
        image = self.resolve(source)
        reference = self._tag_of(target)
        self.catalog.name(reference, image.id, by_hand=True)
        self._told("tag", image.id, reference.familiar)
        return self.catalog.get(image.id)

    def remove(
        self, reference: str, *, force: bool = False, prune: bool = True, platform: Platform | None = None, in_use: InUse
    ) -> Sequence[Removed]:
        """rmi.  Blocking.  ``in_use``: the containers that stand on an image id.  Raises NotFound, Conflict."""
        image = self.find(reference)
        if image is None:
            raise NotFound(f"No such image: {_shown(reference)}")
        _check_platform(image, reference, platform)
        return self._remover.remove(image, reference, force=force, prune=prune, in_use=in_use)

    def prune(self, filters: Filters | None = None, *, in_use: InUse) -> tuple[Sequence[Removed], int]:
        """Remove unused images (dangling ones, unless ``dangling=false``) and downloads broken off: images gone, bytes freed.  Blocking."""
        removed, freed = self._remover.prune(listing.prunable(self.catalog, filters or {}), in_use)
        return removed, freed + self.partials.sweep(kept_s=0)

    def preview_prune(self, filters: Filters | None = None, *, in_use: InUse) -> tuple[Sequence[Image], int]:
        """The images that ``prune`` would remove, and the bytes of downloads broken off."""
        gone = self._remover.preview(listing.prunable(self.catalog, filters or {}), in_use)
        return gone, sum(self.partials.sizes().values())

    def sweep_partials(self) -> None:
        """At start: forget the downloads that nobody has come back for, and those of layers that are here.  Blocking."""
        self.partials.sweep(served=self.layers.unpacked())

    # Making images

    def register(self, config: bytes, *, parent: str | None = None, tags: Sequence[str] = (), action: str = "") -> Image:
        """Make the image whose config these bytes are; its layers are committed snapshots already. ``action``: an event that tells of it.

        Raises InvalidRequest (a bad name, a bad config), Internal (a layer is missing).
        """
        references = [self._tag_of(text) for text in tags]
        try:
            diff_ids = spec.decode_config(config).rootfs.diff_ids
            with self.layers.hold(chain_ids(diff_ids)):
                sizes = self.layers.sizes(all_present(self.layers.snapshotter, diff_ids))
                ident = self.catalog.put(config, sizes, parent=parent or "", references=references, by_hand=True)
        except InvalidDocument as error:
            raise InvalidRequest(str(error)) from error
        except SnapshotMissing as error:
            raise Internal(f"image layer {error} does not exist") from error
        if action:
            self._told(action, ident, ident)
        for reference in references:
            self._told("tag", ident, reference.familiar)
        return self.catalog.get(ident)

    def commit(
        self,
        *,
        base: Image | None,
        config: Config,
        diff_id: Digest | None,
        container_id: str = "",
        container_config: Config | None = None,
        author: str = "",
        comment: str = "",
        created_by: str = "",
        tags: Sequence[str] = (),
    ) -> Image:
        """Make an image of ``base`` and one more layer, a committed snapshot already, or none (None).  Source: Engine API ImageCommit."""
        created = timestamp.now()
        before = list(base.config.history or ()) if base else []
        here = base.config.platform if base else platforms.host()
        entry = spec.History(created=created, created_by=created_by, author=author, comment=comment, empty_layer=diff_id is None)
        made = spec.ImageConfig(
            architecture=here.architecture,
            os=here.os,
            variant=here.variant,
            author=author,
            comment=comment,
            container=container_id,
            container_config=container_config,
            config=config,
            created=created,
            docker_version="",
            history=[*before, entry],
            rootfs=spec.RootFS(diff_ids=[*(base.diff_ids if base else ()), *([diff_id] if diff_id else [])]),
        )
        return self.register(spec.encode(made), parent=base.id if base else None, tags=tags, action="create")

    def forget_layer(self, chain_id: Digest) -> None:
        """Remove the snapshot of a layer, unless an image or the build cache has it or somebody holds it.  Blocking."""
        self.layers.discard([chain_id], lambda: Needed(chains={*self.catalog.layer_users(), *self._keeps()}))

    # To and from elsewhere

    def save(self, references: Sequence[str], platform: Platform | None = None) -> AsyncIterator[bytes]:
        """The archive of these images.  Raises NotFound and InvalidRequest at once, others while it is read."""
        chosen = archive.choose(self.catalog, references)
        if platform is not None and not all(platforms.matches(platform, saved.image.config.platform) for saved in chosen):
            raise NotFound(f"no suitable export target found for platform {platforms.show(platform)}")
        return self._saved(chosen)

    async def _saved(self, chosen: Sequence[archive.Saved]) -> AsyncIterator[bytes]:
        images = [saved.image for saved in chosen]
        async with aclosing(self.written(images, partial(archive.save, self.layers, chosen))) as pieces:
            async for piece in pieces:
                yield piece
        for image in images:
            self._publish("save", image.id, {**image.labels, "name": image.id})

    async def written(self, images: Sequence[Image], work: Callable[[Sink], object]) -> AsyncGenerator[bytes, None]:
        """What ``work`` writes about ``images``, in a thread, as it comes; their layers stay until it has ended."""
        with self.layers.hold([chain_id for image in images for chain_id in image.chain_ids]):
            async with aclosing(produce(self._attend, work)) as pieces:
                async for piece in pieces:
                    yield piece

    def load(self, chunks: AsyncIterator[bytes], *, platform: Platform | None = None, quiet: bool = False) -> AsyncIterator[Record]:
        """Records (``Loaded image: ...``) while the archive in ``chunks`` is read.

        Raises InvalidRequest, NotFound (nothing in it is for ``platform``), Internal; nothing stays then.
        """
        return stream(lambda emit: self._load(chunks, platform, emit, quiet=quiet))

    async def _load(self, chunks: AsyncIterator[bytes], wanted: Platform | None, emit: Emit, *, quiet: bool) -> None:
        loop = asyncio.get_running_loop()

        def tell(record: Record) -> None:
            loop.call_soon_threadsafe(emit, record)

        def work(source: Pipe) -> Sequence[Image]:
            return self._loader.load(source, tell, wanted=wanted, quiet=quiet)

        with _reading("load"):
            for image in await consume(self._attend, chunks, work):
                self._publish("load", image.id, {**image.labels, "name": image.id})

    async def import_(
        self,
        chunks: AsyncIterator[bytes],
        *,
        name: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> Image:
        """A tar of a whole root file system, in any compression, becomes an image.  Source: Engine API ImageCreate with fromSrc."""
        reference = self._tag_of(name) if name else None
        config = apply_changes(Config(), changes)
        here = platforms.parse(platform) if platform else platforms.host()
        if here.os != "linux":
            raise InvalidRequest("operating system is not supported")
        with self.layers.holding() as hold:
            with _reading("import"):
                diff_id = await consume(self._attend, chunks, lambda tar: self.layers.unpack_tree(tar, hold))
            created = timestamp.now()
            comment = message or f"Imported from {source}"
            made = spec.ImageConfig(
                architecture=here.architecture,
                os=here.os,
                variant=here.variant,
                comment=comment,
                config=config,
                created=created,
                history=[spec.History(created=created, comment=comment)],
                rootfs=spec.RootFS(diff_ids=[diff_id]),
            )
            image = await finish(self._run(self.register, spec.encode(made), tags=[str(reference)] if reference else []))
        self._publish("import", image.id, {**image.labels, "name": image.id})
        return image

    def load_embedded(self) -> Image:
        """Make ``hello-world`` from what Wherry carries.  Blocking.  Raises NotFound on a machine type it is not made for."""
        try:
            config, tar = embedded.image()
        except KeyError as error:
            raise NotFound(f"no embedded hello-world image for {error.args[0]}") from error
        diff_id = spec.decode_config(config).rootfs.diff_ids[0]
        with self.layers.hold([diff_id]):
            if not self.layers.exists(diff_id):
                self.layers.unpack(diff_id, None, diff_id, io.BytesIO(tar))
            return self.register(config, tags=[embedded.NAME.familiar])

    def _tag_of(self, text: str) -> Reference:
        try:
            return names.parse_tag(text)
        except InvalidReference as error:
            raise InvalidRequest(str(error)) from error

    def _told(self, action: str, ident: str, name: str) -> None:
        image = self.find(ident)
        self._publish(action, ident, {**(image.labels if image else {}), "name": name})


@contextmanager
def _reading(verb: str) -> Iterator[None]:
    """What is wrong with an archive, said to the client that sent it."""
    try:
        yield
    except DigestMismatch as error:
        raise InvalidRequest(f"invalid archive: {error}") from error
    except (InvalidArchive, BadStream, InvalidDocument) as error:
        raise InvalidRequest(str(error)) from error
    except OSError as error:
        raise Internal(f"{verb}: {told(error)}") from error


def _check_platform(image: Image, reference: str, platform: Platform | None) -> None:
    if platform is not None and not platforms.matches(platform, image.config.platform):
        raise NotFound(
            f"image with reference {reference} was found but its platform ({platforms.show(image.config.platform)}) "
            f"does not match the specified platform ({platforms.show(platform)})"
        )


def _shown(text: str) -> str:
    """How Docker writes a name that was not found: with its tag, or a digest as it is."""
    try:
        return names.parse(text).with_default_tag().familiar if not text.startswith("sha256:") else text
    except InvalidReference:
        return text
