"""One repository of one registry: manifests and blobs, down and up.

What comes down is checked against its descriptor before anybody else sees it.  Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from wherry.registry.credentials import Credentials
from wherry.registry.transport import (
    Authorizer,
    Refused,
    RegistryError,
    Transport,
    Untrusted,
    Waiting,
    flakes,
    read_capped,
    reason,
)
from wherry.spec import foreign
from wherry.spec import image as spec
from wherry.spec.digest import Digest, sha256
from wherry.spec.origin import origin_of

if TYPE_CHECKING:
    import aiohttp

MANIFEST_TYPES = (spec.DOCKER_MANIFEST, spec.DOCKER_INDEX, spec.OCI_MANIFEST, spec.OCI_INDEX)
_CHUNK = 1 << 20
_LEAST_RATE = 512  # bytes in a second; what brings less is as good as silent
_HELD_S = 0.5
_MAX_PAGES = 1000
_MAX_LIST = 4 * spec.MANIFEST_LIMIT  # bytes of all pages
_MAX_TAGS = 100_000
_FORGOTTEN = "BLOB_UPLOAD_UNKNOWN"  # by a registry that was started again, or another one of several
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Write = Callable[[bytes], Awaitable[None]]
Progress = Callable[[int], None]
Body = Callable[[], AsyncGenerator[bytes, None]]
Begin = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A manifest or index as it came: the digest is that of ``raw``, and of nothing the registry said."""

    raw: bytes
    media_type: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a registry answers, and how."""

    base: str  # https://host/v2/
    challenge: str = ""


Find = Callable[[str], Awaitable[Endpoint]]


class Repository:
    """``find``: how a registry answers, asked when that is needed first."""

    def __init__(
        self, transport: Transport, find: Find, domain: str, path: str, credentials: Credentials, *, actions: str = "pull"
    ) -> None:
        self.domain = domain
        self.path = path
        self._find = find
        self._transport = transport
        self._credentials = credentials
        self._scope = f"repository:{path}:{actions}"
        self._connecting = asyncio.Lock()  # one token for all who begin at once
        self._endpoint: Endpoint | None = None
        self._authorizer: Authorizer | None = None

    async def reach(self) -> None:
        """Find the registry, and be let in as far as a token does.  Raises Unreachable, Refused."""
        await self._connect()

    async def manifest(self, what: str, *, accept: Sequence[str] = MANIFEST_TYPES) -> Fetched:
        """The manifest or index that a tag or digest names.  Raises Refused (404: MANIFEST_UNKNOWN or NAME_UNKNOWN), Untrusted."""
        endpoint, authorizer = await self._connect("HEAD", f"{self.path}/manifests/{what}")
        url = f"{endpoint.base}{self.path}/manifests/{what}"
        headers = {"Accept": ", ".join(accept)}
        async with self._transport.request("GET", url, authorizer, scope=self._scope, headers=headers) as response:
            raw = await read_capped(response, spec.MANIFEST_LIMIT, self._transport.patience.document_s)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        digest = sha256(raw)
        if what.startswith("sha256:") and digest != what:
            raise Untrusted(f"manifest verification failed for digest {what}")
        return Fetched(raw=raw, media_type=media_type, digest=digest)

    async def names(self, tag: str) -> str:
        """The digest that the registry says ``tag`` names, or nothing if it does not say: no proof, and no pull in Docker Hub's count."""
        endpoint, authorizer = await self._connect()
        url = f"{endpoint.base}{self.path}/manifests/{tag}"
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        async with self._transport.request("HEAD", url, authorizer, scope=self._scope, headers=headers) as response:
            return response.headers.get("Docker-Content-Digest", "")

    async def document(self, descriptor: spec.Descriptor, limit: int) -> bytes:
        """A small blob (an image config) in memory, checked.  Raises Untrusted."""
        if descriptor.size > limit:
            raise Untrusted(f"blob {descriptor.digest} is larger than {limit} bytes")
        parts: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            parts.append(chunk)

        await self.download(descriptor, keep)
        raw = b"".join(parts)
        if sha256(raw) != descriptor.digest:
            raise Untrusted(f"image config verification failed for digest {descriptor.digest}")
        return raw

    async def download(
        self,
        descriptor: spec.Descriptor,
        write: Write,
        progress: Progress | None = None,
        *,
        start: int = 0,
        waiting: Waiting | None = None,
    ) -> None:
        """Hand the blob's bytes from ``start`` on to ``write``, in order, up to ``descriptor.size``; resumed by Range when a connection
        breaks.

        The caller checks the digest. Raises Untrusted (size), Refused, RegistryError.
        """
        if 0 < start == descriptor.size:
            return
        endpoint, authorizer = await self._connect()
        url = f"{endpoint.base}{self.path}/blobs/{descriptor.digest}"
        done = start
        patience = self._transport.patience
        attempt = 0
        while True:
            begun, broken = done, ""
            headers = {"Range": f"bytes={done}-"} if done else {}
            async with self._transport.request(
                "GET", url, authorizer, scope=self._scope, headers=headers, expect=frozenset({200, 206}), waiting=waiting
            ) as response:
                skip = _to_skip(response, done, descriptor)
                async for chunk in _chunks(response.content.iter_any(), _CHUNK, patience.idle_s):
                    if isinstance(chunk, Exception):
                        broken = reason(chunk)
                        break
                    if skip:
                        cut = min(skip, len(chunk))
                        skip -= cut
                        chunk = chunk[cut:]
                    done += len(chunk)
                    if done > descriptor.size:
                        raise Untrusted(f"blob {descriptor.digest}: more than the expected {descriptor.size} bytes")
                    await write(chunk)
                    if progress is not None:
                        progress(done)
            if done == descriptor.size:
                return
            attempt = attempt + 1 if done - begun < _CHUNK else 0  # who brings something may be asked again and again
            if not patience.may_retry(attempt - 1):
                raise RegistryError(f"blob {descriptor.digest}: unexpected EOF: {done} of {descriptor.size} bytes {broken}".rstrip())
            await patience.rest(max(0, attempt - 1), waiting=waiting)

    async def tags(self) -> list[str]:
        """All tags of the repository.  Raises Refused, Untrusted."""
        names: list[str] = []
        async for page in self._pages("tags/list", "tags"):
            names += _tag_names(page)
            if len(names) > _MAX_TAGS:
                raise Untrusted(f"{self.domain}/{self.path}: more than {_MAX_TAGS} tags")
        return names

    async def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Descriptors of the manifests that have ``digest`` as their subject; none where the registry does not know such lists."""
        return [item async for page in self._pages(f"referrers/{digest}", "referrers", may_lack=True) for item in _described(page)]

    async def _pages(self, what: str, shown: str, *, may_lack: bool = False) -> AsyncIterator[bytes]:
        """The parts of a list, as each names the next.  Raises Refused, Untrusted for one that is too long or does not end."""
        endpoint, authorizer = await self._connect("GET", f"{self.path}/{what}")
        url = f"{endpoint.base}{self.path}/{what}"
        expect = frozenset({200, 404} if may_lack else {200})
        room = _MAX_LIST
        for _ in range(_MAX_PAGES):
            async with self._transport.request("GET", url, authorizer, scope=self._scope, expect=expect) as response:
                if response.status == 404:
                    return
                raw = await read_capped(response, min(room, spec.MANIFEST_LIMIT), self._transport.patience.document_s)
                following = response.links["next"].get("url") if "next" in response.links else None
            room -= len(raw)
            yield raw
            if following is None:
                return
            url = self._transport.resolve(url, str(following), authorizer.origin)
        raise Untrusted(f"{self.domain}/{self.path}: the list of {shown} does not end")

    async def has_blob(self, digest: Digest) -> int | None:
        """The size of a blob that the repository already holds, or None."""
        endpoint, authorizer = await self._connect()
        url = f"{endpoint.base}{self.path}/blobs/{digest}"
        async with self._transport.request("HEAD", url, authorizer, scope=self._scope, expect=frozenset({200, 404})) as response:
            return int(response.headers.get("Content-Length", "-1")) if response.status == 200 else None

    async def mount(self, digest: Digest, source: str) -> bool:
        """Take over a blob from the repository ``source`` of the same registry; whether it did."""
        endpoint, authorizer = await self._connect()
        url = f"{endpoint.base}{self.path}/blobs/uploads/?" + urlencode({"mount": digest, "from": source})
        scope = f"{self._scope} repository:{source}:pull"
        try:
            if endpoint.challenge:
                await self._transport.authorise("POST", url, authorizer, scope)
            async with self._transport.request(
                "POST", url, authorizer, scope=scope, headers={"Content-Length": "0"}, expect=frozenset({201, 202})
            ) as response:
                mounted, location = response.status == 201, response.headers.get("Location", "")
        except Refused as error:
            if error.status in (401, 403, 404):  # who may push here may not be let in there: then the blob is sent
                return False
            raise
        if not mounted and location:
            await self._cancel(self._transport.resolve(url, location, authorizer.origin))
        return mounted

    async def upload(
        self, body: Body, digest: Digest | Callable[[], Digest], *, size: int | None = None, waiting: Waiting | None = None
    ) -> None:
        """Send one blob as a stream, in one request where digest and ``size`` are known.

        A callable ``digest`` is asked when ``body`` has ended, so that a layer can be compressed as it goes out. ``body`` may be called
        again: an upload that broke, or that the registry could not take then, starts over. What ``body`` raises is raised as it is.
        """
        attempt = 0
        patience = self._transport.patience
        start = f"{(await self._connect())[0].base}{self.path}/blobs/uploads/"
        while True:
            retry_after: str | None = None
            url = await self._step("POST", start, frozenset({202}), size=0, waiting=waiting)  # is asked again by itself
            try:
                async with _attempts(body) as begin:
                    return await self._send(url, begin, digest, size)
            except Untrusted:
                raise
            except Refused as error:
                retry_after = error.retry_after
                may_pass = error.is_passing or error.code == _FORGOTTEN
                if not may_pass or not patience.may_retry(attempt, retry_after):
                    raise
            except RegistryError:
                if not patience.may_retry(attempt):
                    raise
            await patience.rest(attempt, retry_after, waiting)
            attempt += 1

    async def _send(self, url: str, body: Begin, digest: Digest | Callable[[], Digest], size: int | None) -> None:
        if size is None:
            url = await self._step("PATCH", url, frozenset({202}), body)
        url += ("&" if "?" in url else "?") + urlencode({"digest": digest if isinstance(digest, str) else digest()})
        await self._step("PUT", url, frozenset({201, 204}), None if size is None else body, size=size or 0)

    async def _step(
        self,
        method: str,
        url: str,
        expect: frozenset[int],
        body: Begin | None = None,
        *,
        size: int | None = None,
        waiting: Waiting | None = None,
    ) -> str:
        """One request of an upload; where the next goes."""
        _, authorizer = await self._connect()
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        if size is not None:
            headers["Content-Length"] = str(size)
        async with self._transport.request(
            method,
            url,
            authorizer,
            scope=self._scope,
            headers=headers,
            body=body,
            expect=expect,
            retry=method == "POST",
            waiting=waiting,
        ) as response:
            location = response.headers.get("Location", "")
        return "" if method == "PUT" else self._transport.resolve(url, location, authorizer.origin)

    async def put_manifest(self, tag: str, raw: bytes, media_type: str) -> Digest:
        """Store a manifest under ``tag`` (or its digest); its blobs must be there already."""
        endpoint, authorizer = await self._connect()
        async with self._transport.request(
            "PUT",
            f"{endpoint.base}{self.path}/manifests/{tag}",
            authorizer,
            scope=self._scope,
            headers={"Content-Type": media_type},
            body=lambda: raw,
            expect=frozenset({200, 201, 202}),
        ):
            return sha256(raw)

    async def _cancel(self, url: str) -> None:
        _, authorizer = await self._connect()
        try:
            async with self._transport.request(
                "DELETE", url, authorizer, scope=self._scope, expect=frozenset({202, 204, 404}), retry=False
            ):
                pass
        except RegistryError:  # the registry forgets an unfinished upload by itself
            pass

    async def _connect(self, method: str = "", wanted: str = "") -> tuple[Endpoint, Authorizer]:
        """``method``, ``wanted``: the request that a refusal names, which Docker would have made first; none for a push."""
        async with self._connecting:
            if self._endpoint is None or self._authorizer is None:
                endpoint = await self._find(self.domain)
                authorizer = Authorizer(origin_of(endpoint.base), self._credentials, endpoint.challenge)
                if endpoint.challenge:
                    await self._transport.authorise(method, endpoint.base + wanted, authorizer, self._scope)
                self._endpoint, self._authorizer = endpoint, authorizer
            return self._endpoint, self._authorizer


class _Attempt:
    """A body on its way, and what failed in it."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._resting = asyncio.Event()
        self._resting.set()
        self.failure: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._resting.clear()
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._resting.set()

    async def aclose(self) -> None:
        await self._resting.wait()  # who sends it may have been cancelled without being waited for
        await self._pieces.aclose()


@asynccontextmanager
async def _attempts(body: Body) -> AsyncIterator[Begin]:
    """``body``, of which nothing goes on when the block has ended; a failure of its own is raised, not the broken connection it causes."""
    attempts: list[_Attempt] = []

    def begin() -> AsyncIterator[bytes]:
        attempts.append(_Attempt(body()))
        return attempts[-1]

    try:
        yield begin
    except RegistryError:
        for attempt in attempts:
            if attempt.failure is not None:
                raise attempt.failure from None
        raise
    finally:
        for attempt in attempts:
            await attempt.aclose()


async def _chunks(source: AsyncIterator[bytes], size: int, idle_s: float) -> AsyncIterator[bytes | Exception]:
    """``source`` in pieces of at least ``size``, or what has come for a while; a failure is the last piece, after all that did arrive.

    A source that only drips is a failure too, after ``idle_s``.
    """
    parts: list[bytes] = []
    held = received = 0
    failure: Exception | None = None
    looked = handed = time.monotonic()
    try:
        async for chunk in source:
            parts.append(chunk)
            held += len(chunk)
            received += len(chunk)
            now = time.monotonic()
            if now - looked >= idle_s:
                if received < _LEAST_RATE * (now - looked):
                    raise TimeoutError
                looked, received = now, 0
            if held >= size or now - handed >= _HELD_S:
                yield b"".join(parts)
                parts, held, handed = [], 0, now
    except flakes() as error:
        failure = error
    if parts:
        yield b"".join(parts)
    if failure is not None:
        yield failure


def _to_skip(response: aiohttp.ClientResponse, done: int, descriptor: spec.Descriptor) -> int:
    """How many bytes of the answer are here already: none when it begins where we asked.  Raises Untrusted."""
    if response.status == 206:
        _check_range(response.headers.get("Content-Range", ""), done, descriptor)
        return 0
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != descriptor.size:
        raise Untrusted(f"blob {descriptor.digest}: {length} bytes offered, {descriptor.size} expected")
    return done


def _check_range(text: str, done: int, descriptor: spec.Descriptor) -> None:
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None or int(found[1]) != done or (found[3] != "*" and int(found[3]) != descriptor.size):
        raise Untrusted(f"blob {descriptor.digest}: the registry resumed at another place: {text[:100]!r}")


def _described(raw: bytes) -> list[dict[str, Any]]:
    try:
        found = foreign.loads(raw)["manifests"] or []
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Untrusted("the list of referrers is not an index") from error
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _tag_names(raw: bytes) -> list[str]:
    try:
        names = foreign.loads(raw).get("tags") or []
    except (ValueError, AttributeError, RecursionError) as error:
        raise Untrusted(f"the list of tags is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Untrusted("the list of tags is not a list of names")
    return names
