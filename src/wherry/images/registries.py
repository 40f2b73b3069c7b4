"""Images that are in registries: brought here, sent there, looked at, found; and who may.

What an image is once it is here: ``service.py``. How one comes or goes: ``pull.py``, ``push.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from wherry.errors import Internal, InvalidRequest, NotFound, Unauthorized
from wherry.images import embedded, platforms
from wherry.images.blocking import Run
from wherry.images.catalog import Catalog, Image
from wherry.images.layers import Layers
from wherry.images.progress import Emit, Record, about, status, stream
from wherry.images.pull import Puller, is_unreachable, outcome, translate
from wherry.images.push import Pusher
from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.transport import Refused, RegistryError
from wherry.spec import reference as names
from wherry.spec.image import Descriptor, Platform
from wherry.spec.reference import InvalidReference, Reference

_EMBEDDED_WAIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """``load_embedded``: make hello-world without any registry; blocking.  ``tell``: of an event: what, of which image, its name."""

    catalog: Catalog
    layers: Layers
    client: Client
    puller: Puller
    pusher: Pusher
    run: Run
    tell: Callable[[str, str, str], None]
    load_embedded: Callable[[], Image]

    def pull(
        self, reference: str, *, platform: str = "", credentials: Credentials | None = None, all_tags: bool = False
    ) -> AsyncIterator[Record]:
        """Progress records while the image comes.  Closing the iterator stops the pull.  Raises EngineError in Docker's words."""
        wanted = platforms.parse(platform) if platform else None
        parsed = _parsed(reference)
        who = credentials or Credentials()
        if all_tags:
            return stream(lambda emit: self._pull_all(parsed, wanted, who, emit))
        return stream(lambda emit: self._pull(parsed, wanted, who, emit))

    def push(self, reference: str, *, tag: str = "", credentials: Credentials | None = None) -> AsyncIterator[Record]:
        """Progress records while the image goes: the tag of ``reference`` or ``tag``, or else every tag of the repository.

        Raises EngineError in Docker's words.
        """
        parsed = _parsed(reference)
        if tag:
            try:
                parsed = parsed.with_tag(tag)
            except InvalidReference as error:
                raise InvalidRequest(str(error)) from error
        if parsed.digest is not None:
            raise InvalidRequest("cannot push a digest reference")
        return stream(lambda emit: self._push(parsed, credentials or Credentials(), emit))

    async def _push(self, reference: Reference, credentials: Credentials, emit: Emit) -> None:
        emit(status(f"The push refers to repository [{reference.name}]"))
        for item in self._pushed(reference):
            ident = self.catalog.named(item)
            if ident is None and self.catalog.tags_of(reference):
                raise NotFound(f"tag does not exist: {item.familiar}")
            if ident is None:
                raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
            image = self.catalog.whole(ident)
            with self.layers.hold(image.chain_ids):
                await self.pusher.push(item, image, credentials, emit)
            self.tell("push", item.familiar, item.familiar_name)

    def _pushed(self, reference: Reference) -> Sequence[Reference]:
        if reference.tag:
            return [reference]
        return self.catalog.tags_of(reference) or [reference.with_default_tag()]

    async def distribution(self, reference: str, credentials: Credentials | None = None) -> tuple[Descriptor, Sequence[Platform]]:
        """What the registry has under this name.  Raises NotFound, Internal."""
        return await self.puller.inspect(_parsed(reference), credentials or Credentials())

    async def search(self, term: str, *, limit: int = 25) -> Sequence[dict[str, object]]:
        """What Docker Hub finds.  Raises InvalidRequest, Internal (the Hub can't be reached)."""
        if not 1 <= limit <= 100:
            raise InvalidRequest(f"limit {limit} is outside the range of [1, 100]")
        try:
            return await self.client.search(term, limit)
        except RegistryError as error:
            raise Internal(str(error)) from error

    async def login(self, credentials: Credentials) -> str:
        """Check credentials with their registry; the identity token (none: empty).  Raises Unauthorized, Internal.  Source: POST /auth."""
        try:
            return await self.client.login(credentials)
        except Refused as error:
            raise (Unauthorized if error.status == 401 else Internal)(str(error)) from error
        except RegistryError as error:
            raise Internal(str(error)) from error

    async def _pull(self, reference: Reference, wanted: Platform | None, credentials: Credentials, emit: Emit) -> Image:
        if reference.with_default_tag() != embedded.NAME:
            image = await self.puller.pull(reference, wanted, credentials, emit)
        else:
            image = await self._pull_hello(reference, wanted, credentials, emit)
        self.tell("pull", reference.with_default_tag().familiar, reference.familiar_name)
        return image

    async def _pull_hello(self, reference: Reference, wanted: Platform | None, credentials: Credentials, emit: Emit) -> Image:
        """From the registry if it answers soon, else the copy that Wherry carries."""
        try:
            async with asyncio.timeout(_EMBEDDED_WAIT_S) as deadline:

                def first(record: Record) -> None:
                    deadline.reschedule(None)
                    emit(record)

                return await self.puller.pull(reference, wanted, credentials, first)
        except (Internal, TimeoutError) as error:
            if not is_unreachable(error.__cause__ or error):
                raise
            image = await self.run(self.load_embedded)
            emit(about(f"Pulling from {embedded.NAME.path}", embedded.NAME.tag or ""))
            emit(status("Status: No registry could be reached: using the embedded image for hello-world:latest"))
            return image

    async def _pull_all(self, reference: Reference, wanted: Platform | None, credentials: Credentials, emit: Emit) -> None:
        try:
            tags = await self._tags(reference, credentials)
        except RegistryError as error:
            raise translate(error, reference) from error
        is_new = False
        for tag in tags:
            tagged = _parsed(f"{reference.name}:{tag}")
            _, is_newer = await self.puller.bring(tagged, wanted, credentials, emit)
            is_new = is_new or is_newer
            self.tell("pull", tagged.familiar, tagged.familiar_name)
        emit(outcome(reference.familiar, is_new=is_new))

    async def _tags(self, reference: Reference, credentials: Credentials) -> list[str]:
        """Of the first source that tells them.  Raises RegistryError."""
        *mirrors, registry = self.client.sources(reference, credentials)
        for mirror in mirrors:
            with suppress(RegistryError):
                return await mirror.tags()
        return await registry.tags()


def _parsed(text: str) -> Reference:
    try:
        return names.parse(text)
    except InvalidReference as error:
        raise InvalidRequest(str(error)) from error
