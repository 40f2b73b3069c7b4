"""A registry as a cache in front of another: what is asked for is fetched once, kept, and told to all who wait for it meanwhile."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from wherry.registry import documents
from wherry.registry.bodies import in_thread
from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.eviction import Bound
from wherry.registry.failures import Failure
from wherry.registry.holdings import Holdings
from wherry.registry.naming import AnyDigest
from wherry.registry.repository import Repository
from wherry.registry.transport import Refused, RegistryError, Untrusted
from wherry.registry.uploads import TooManyUploads, Upload, Uploads
from wherry.spec.digest import Digest
from wherry.spec.image import Descriptor, InvalidDocument
from wherry.spec.reference import Reference

log = logging.getLogger(__name__)

_PIECE = 1 << 20
_AWAY_S = 10.0
"""How long a registry that did not answer is not asked again for the same thing."""
_REMEMBERED = 10_000

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Fill:
    """A blob that is coming: a file that grows, and those who read behind its end.  Its file is open while it comes or is read."""

    def __init__(self, path: str, size: int) -> None:
        self.size = size
        self._done = 0
        self._failure: BaseException | None = None
        self._is_over = False
        self._readers = 0
        self._moved = asyncio.Event()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def grow(self, count: int) -> None:
        self._done += count
        self._wake()

    def end(self, failure: BaseException | None) -> None:
        """No more will come."""
        self._failure = failure
        self._is_over = True
        self._wake()
        self._close()

    @contextmanager
    def reading(self) -> Iterator[Fill]:
        """Enter it as soon as it is got, before anything is awaited."""
        self._readers += 1
        try:
            yield self
        finally:
            self._readers -= 1
            self._close()

    async def pieces(self, start: int, count: int) -> AsyncIterator[bytes]:
        """Part of the blob as it comes, its last byte when all were checked.  Raises ConnectionResetError when it breaks off."""
        end = start + count
        while start < end:
            moved = self._moved
            ready = self._done if self._is_over and self._failure is None else min(self._done, self.size - 1)
            if start < ready:
                piece = await in_thread(os.pread, self._fd, min(_PIECE, ready - start, end - start), start)
                start += len(piece)
                yield piece
            elif self._is_over:
                raise ConnectionResetError(str(self._failure))
            else:
                await moved.wait()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _close(self) -> None:
        if self._is_over and not self._readers and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Upstream:
    """The registry behind.

    A tag is asked for anew when it was last asked for longer than ``fresh_s`` ago, a digest once. When the registry does not answer, or
    has had enough of us, what is here is good. ``bound``: how much is kept. Its credentials go to it only, and never come back in an
    answer.
    """

    def __init__(
        self,
        client: Client,
        domain: str,
        credentials: Credentials,
        holdings: Holdings,
        uploads: Uploads,
        spawn: Spawn,
        *,
        fresh_s: float,
        bound: Bound | None = None,
    ) -> None:
        self._client = client
        self._domain = domain
        self._credentials = credentials
        self._holdings = holdings
        self._uploads = uploads
        self._spawn = spawn
        self._fresh_s = fresh_s
        self._bound = bound
        self._fresh: dict[tuple[str, str], float] = {}  # (name, tag) -> until when
        self._asking: dict[tuple[str, str], asyncio.Lock] = {}
        self._fills: dict[tuple[str, str], Fill] = {}

    async def tags(self, name: str) -> list[str]:
        """Raises Failure."""
        try:
            return await self._repository(name).tags()
        except RegistryError as error:
            if not _is_away(error):
                raise _failure(error, "NAME_UNKNOWN") from error
            known = await in_thread(self._holdings.tags, name)
            if not known:
                raise _failure(error, "NAME_UNKNOWN") from error
            return known

    async def referrers(self, name: str, subject: AnyDigest) -> list[dict[str, Any]]:
        """Raises Failure."""
        try:
            return await self._repository(name).referrers(subject)
        except RegistryError as error:
            if not _is_away(error):
                raise _failure(error, "NAME_UNKNOWN") from error
            return await in_thread(self._holdings.referrers, name, subject)

    async def refresh(self, name: str, what: AnyDigest | str) -> None:
        """Make the manifest ``what`` be here as it is there; several who ask at once ask once.  Raises Failure."""
        key = name, str(what)
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if not await self._is_fresh(name, what):
                    await self._ask(name, what)
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    async def _is_fresh(self, name: str, what: AnyDigest | str) -> bool:
        if not isinstance(what, AnyDigest) and self._fresh.get((name, what), 0.0) < time.monotonic():
            return False
        return await self._is_here(name, what)

    async def _is_here(self, name: str, what: AnyDigest | str) -> bool:
        try:
            await in_thread(self._holdings.manifest, name, what)
        except FileNotFoundError:
            return False
        return True

    async def _ask(self, name: str, what: AnyDigest | str) -> None:
        try:
            if await self._is_current(name, what):
                self._note(name, what, self._fresh_s)
                return
            fetched = await self._repository(name).manifest(what)
            if isinstance(what, AnyDigest) and AnyDigest.of(fetched.raw, what.algorithm) != what:
                raise Untrusted(f"manifest verification failed for digest {what}")
            document = await in_thread(documents.read, fetched.raw, fetched.media_type)
            await self._keep(name, what, fetched.raw, document)
        except (RegistryError, InvalidDocument) as error:
            if not _is_away(error):
                if not isinstance(what, AnyDigest) and isinstance(error, Refused) and error.status == 404:
                    await self._forget(name, what)
                raise _failure(error, "MANIFEST_UNKNOWN") from error
            if not await self._is_here(name, what):
                raise _failure(error, "MANIFEST_UNKNOWN") from error
            log.warning("%s:%s is served as it was: %s", name, what, error)
            self._note(name, what, _AWAY_S)
        else:
            self._note(name, what, self._fresh_s)

    async def _is_current(self, name: str, what: AnyDigest | str) -> bool:
        """Whether a tag that is here names the same there; asked so because many registries count how often manifests are fetched."""
        if isinstance(what, AnyDigest):
            return False
        try:
            here = (await in_thread(self._holdings.manifest, name, what)).digest
        except FileNotFoundError:
            return False
        return here == await self._repository(name).names(what)

    async def _keep(self, name: str, what: AnyDigest | str, raw: bytes, document: documents.Document) -> None:
        def keep() -> None:
            self._holdings.put_manifest(name, what, raw, document, complete=False)

        await in_thread(keep)

    async def _forget(self, name: str, tag: str) -> None:
        try:
            await in_thread(self._holdings.remove_manifest, name, tag)
        except FileNotFoundError:
            return

    def _note(self, name: str, what: AnyDigest | str, lasting_s: float) -> None:
        if not isinstance(what, AnyDigest):
            if len(self._fresh) >= _REMEMBERED:
                self._fresh.clear()
            self._fresh[name, what] = time.monotonic() + lasting_s

    # --- blobs

    async def was_read(self, digest: AnyDigest) -> None:
        """A blob that is here was wanted: it stays longer than others."""
        if self._bound is not None:
            await in_thread(self._bound.was_read, digest)

    async def size(self, name: str, digest: AnyDigest) -> int:
        """Raises Failure."""
        try:
            size = await self._repository(name).has_blob(Digest(digest))
        except ValueError as error:
            raise Failure("BLOB_UNKNOWN", "only sha256 is fetched through a cache", detail={"digest": digest}) from error
        except RegistryError as error:
            raise _failure(error, "BLOB_UNKNOWN") from error
        if size is None or size < 0:
            raise Failure("BLOB_UNKNOWN", detail={"digest": digest})
        return size

    async def fetch(self, name: str, digest: AnyDigest) -> Fill | int:
        """Begin to fetch a blob, or join who has begun; its size, when it turns out to be here.  Raises Failure."""
        key = name, str(digest)
        if (fill := self._fills.get(key)) is not None:
            return fill
        size = await self.size(name, digest)
        if await in_thread(self._holdings.mount_blob, name, digest):
            return size  # another repository has it, and this one may be seen
        try:
            ident = await in_thread(self._uploads.begin, name)
        except TooManyUploads:
            raise Failure("TOOMANYREQUESTS", "too much is being fetched") from None
        upload = self._uploads.open(name, ident)
        if (fill := self._fills.get(key)) is not None:  # somebody was quicker
            with upload:
                upload.discard()
            return fill
        fill = self._fills[key] = Fill(upload.path, size)
        self._spawn(self._fill(name, digest, upload, fill))
        return fill

    async def _fill(self, name: str, digest: AnyDigest, upload: Upload, fill: Fill) -> None:
        async def write(piece: bytes) -> None:
            await in_thread(upload.write, piece)
            fill.grow(len(piece))

        def keep() -> None:
            upload.check(digest)
            self._holdings.add_blob(name, digest, upload.path)
            if self._bound is not None:
                self._bound.has_grown(fill.size)

        failure: BaseException | None = None
        try:
            with upload:
                try:
                    await self._repository(name).download(Descriptor(media_type="", digest=Digest(digest), size=fill.size), write)
                    await in_thread(keep)
                except BaseException:
                    upload.discard()
                    raise
        except asyncio.CancelledError as error:
            failure = error
            raise
        except Exception as error:  # noqa: BLE001 - told to all who read
            log.warning("%s of %s: %s", digest, name, error or type(error).__name__)
            failure = error
        finally:
            del self._fills[name, str(digest)]
            fill.end(failure)

    def _repository(self, name: str) -> Repository:
        return self._client.repository(Reference(domain=self._domain, path=name), self._credentials)


def _is_away(error: Exception) -> bool:
    """Whether it says nothing about the thing itself: not reached, not able, not now."""
    if isinstance(error, Refused):
        return error.status == 429 or error.status >= 500
    return not isinstance(error, Untrusted | InvalidDocument)


def _failure(error: Exception, code: str) -> Failure:
    if isinstance(error, Refused):
        if error.status in (401, 403):
            return Failure("DENIED", "the registry behind this cache does not give it")
        if error.status == 429:
            return Failure("TOOMANYREQUESTS", "the registry behind this cache has had enough requests")
        if error.status < 500:
            return Failure(code)
    if isinstance(error, Untrusted | InvalidDocument):
        log.warning("refused from upstream: %s", error)
        return Failure(code, "what the registry behind this cache sent is not what it should be")
    return Failure("UNAVAILABLE", "the registry behind this cache does not answer")
