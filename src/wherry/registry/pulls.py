"""What a registry answers to those who pull: manifests, blobs, and lists of them.

Source: OCI distribution-spec 1.1, end-2, end-3, end-8, end-12. Where it leaves a choice, the answer is that of the distribution project's
registry, which clients have been tried on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from wherry.registry import bodies, documents
from wherry.registry.bodies import Limits, in_thread
from wherry.registry.failures import Failure
from wherry.registry.holdings import Holdings, Stored, blob_key
from wherry.registry.naming import AnyDigest, is_tag
from wherry.registry.through import Fill, Upstream
from wherry.spec import image as spec

LONGEST_PAGE = 1000
_OLD_PLATFORM = "linux/amd64"


MayPull = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request whose address was understood.  ``name``: a checked repository name; ``rest``: what follows, unchecked.

    ``may_pull``: whether who asks may pull from a repository, where there are rights.
    """

    request: web.BaseRequest
    name: str
    rest: str
    may_pull: MayPull | None = None

    def only(self, *methods: str) -> None:
        """Raises Failure for another method."""
        if self.request.method not in methods:
            raise Failure("UNSUPPORTED", headers={"Allow": ", ".join(methods)})


class Pulls:
    """``upstream``: where to get what is not here."""

    def __init__(self, holdings: Holdings, limits: Limits, upstream: Upstream | None) -> None:
        self._holdings = holdings
        self._limits = limits
        self._upstream = upstream

    # --- manifests

    async def manifest(self, call: Call) -> web.StreamResponse:
        what = reference(call.rest)
        if self._upstream is not None:
            await self._upstream.refresh(call.name, what)
        try:
            stored = await in_thread(self._holdings.manifest, call.name, what)
            stored = await in_thread(self._acceptable, call, stored, what)
        except FileNotFoundError:
            raise Failure("MANIFEST_UNKNOWN", detail={"name": call.name, "reference": what}) from None
        headers = {
            "Content-Type": stored.media_type,
            "Docker-Content-Digest": stored.digest,
            "ETag": f'"{stored.digest}"',
            "X-Content-Type-Options": "nosniff",
        }
        if _is_known(call.request, stored.digest):
            return web.Response(status=304, headers=headers)
        if call.request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(stored.raw))})
        return web.Response(body=stored.raw, headers=headers)

    def _acceptable(self, call: Call, stored: Stored, what: AnyDigest | str) -> Stored:
        """What the client can read; by tag, a client too old for indexes gets the manifest it would have chosen.  Raises Failure."""
        accepted = accepted_types(call.request.headers.getall("Accept", []))
        if accepts(accepted, stored.media_type):
            return stored
        if stored.media_type in spec.INDEXES and not isinstance(what, AnyDigest):
            for child in documents.read(stored.raw, stored.media_type).children:
                if child.platform == _OLD_PLATFORM:
                    found = self._holdings.manifest(call.name, child.digest)
                    if accepts(accepted, found.media_type):
                        return found
        raise Failure("MANIFEST_UNKNOWN", f"the manifest is {stored.media_type}, which the Accept header does not name")

    # --- blobs

    async def blob(self, call: Call) -> web.StreamResponse:
        digest = checked_digest(call.rest)
        try:
            if self._upstream is None:
                return await self._blob_here(call, digest)
            with suppress(FileNotFoundError):  # before any answer: it is not here, or went just now to make room
                return await self._blob_here(call, digest)
            return await self._blob_through(call, digest, self._upstream)
        except FileNotFoundError:
            raise Failure("BLOB_UNKNOWN", detail={"digest": digest}) from None

    async def _blob_here(self, call: Call, digest: AnyDigest) -> web.StreamResponse:
        return await self._stored_blob(call, digest, await in_thread(self._holdings.blob_size, call.name, digest))

    async def _stored_blob(self, call: Call, digest: AnyDigest, size: int) -> web.StreamResponse:
        response, start, count = _blob_response(call.request, digest, size)
        if call.request.method == "HEAD" or response.status == 304:
            return response
        if self._upstream is not None:
            await self._upstream.was_read(digest)
        objects = self._holdings.objects
        path = self._holdings.local_path(digest)
        if path is None:
            await bodies.send(call.request, response, bodies.stored(objects, blob_key(digest), start, count), self._limits)
        else:
            is_plain = call.request.transport is not None and call.request.transport.get_extra_info("sslcontext") is None
            await bodies.send_file(call.request, response, path, start, count, self._limits, by_kernel=is_plain)
        return response

    async def _blob_through(self, call: Call, digest: AnyDigest, upstream: Upstream) -> web.StreamResponse:
        if call.request.method == "HEAD":
            return _blob_response(call.request, digest, await upstream.size(call.name, digest))[0]
        found = await upstream.fetch(call.name, digest)
        if not isinstance(found, Fill):
            return await self._stored_blob(call, digest, found)
        with found.reading() as fill:
            response, start, count = _blob_response(call.request, digest, fill.size)
            if response.status != 304:
                await bodies.send(call.request, response, fill.pieces(start, count), self._limits)
            return response

    # --- lists

    async def tags(self, call: Call) -> web.StreamResponse:
        if call.rest != "list":
            raise Failure("NAME_UNKNOWN", "there is no such address", status=404)
        if self._upstream is not None:
            tags = sorted(await self._upstream.tags(call.name))
        else:
            tags = await in_thread(self._holdings.tags, call.name)
            if not tags and not await in_thread(self._holdings.has_repository, call.name):
                raise Failure("NAME_UNKNOWN", detail={"name": call.name})
        return _paged(call.request, "tags", {"name": call.name}, tags)

    async def catalog(self, request: web.BaseRequest, may_pull: MayPull | None = None) -> web.StreamResponse:
        names = await in_thread(self._holdings.repositories)
        return _paged(request, "repositories", {}, [name for name in names if may_pull is None or may_pull(name)], LONGEST_PAGE)

    async def referrers(self, call: Call) -> web.StreamResponse:
        subject = checked_digest(call.rest)
        if self._upstream is not None:
            found = await self._upstream.referrers(call.name, subject)
        else:
            found = await in_thread(self._holdings.referrers, call.name, subject)
        headers = {"Content-Type": spec.OCI_INDEX}
        wanted = call.request.query.get("artifactType")
        if wanted:
            found = [item for item in found if item.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        body = msgspec.json.encode({"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": found})
        return web.Response(body=body, headers=headers)


def reference(text: str) -> AnyDigest | str:
    """A digest or a tag.  Raises Failure."""
    if ":" in text:
        return checked_digest(text)
    if not is_tag(text):
        raise Failure("MANIFEST_INVALID", "invalid tag", detail={"tag": text[:200]})
    return text


def checked_digest(text: str) -> AnyDigest:
    """Raises Failure."""
    try:
        return AnyDigest(text)
    except ValueError:
        raise Failure("DIGEST_INVALID", "invalid or unsupported digest", detail={"digest": text[:200]}) from None


def accepted_types(headers: Sequence[str]) -> list[str]:
    """The media types of ``Accept`` headers, without those that are refused (``q=0``).  Source: RFC 9110, 12.5.1."""
    found = []
    for item in ",".join(headers).split(","):
        kind, _, parameters = item.partition(";")
        if kind.strip() and not re.search(r";\s*q=0(\.0*)?\s*(;|$)", f";{parameters}"):
            found.append(kind.strip().lower())
    return found


def accepts(accepted: Sequence[str], media_type: str) -> bool:
    return not accepted or any(kind in ("*/*", "application/*", media_type) for kind in accepted)


def page(names: Sequence[str], count: int | None, last: str) -> tuple[list[str], bool]:
    """At most ``count`` of the sorted ``names`` after ``last``; whether more follow."""
    rest = [name for name in names if name > last] if last else list(names)
    if count is None or len(rest) <= count:
        return rest, False
    return rest[:count], True


def _paged(request: web.BaseRequest, key: str, more: dict[str, Any], names: list[str], unasked: int | None = None) -> web.Response:
    text = request.query.get("n")
    if text is not None and not re.fullmatch(r"[0-9]{1,19}", text):
        raise Failure("UNSUPPORTED", "n is not a number of results", {"n": text[:20]}, status=400)
    count = unasked if text is None else min(int(text), LONGEST_PAGE)
    chosen, follows = page(names, count, request.query.get("last", ""))
    headers = {"Content-Type": "application/json"}
    if follows and chosen:
        path = request.raw_path.partition("?")[0]
        headers["Link"] = f'<{path}?{urlencode({"n": count, "last": chosen[-1]})}>; rel="next"'
    return web.Response(body=msgspec.json.encode({**more, key: chosen}), headers=headers)


def _is_known(request: web.BaseRequest, digest: str) -> bool:
    known = request.headers.get("If-None-Match", "")
    return any(item.strip().removeprefix("W/").strip('"') in (digest, "*") for item in known.split(",")) if known else False


def _blob_response(request: web.BaseRequest, digest: AnyDigest, size: int) -> tuple[web.StreamResponse, int, int]:
    """The head of the answer, and which part of the blob is its body.  Raises Failure (416)."""
    headers = {
        **bodies.COMMON,
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    if _is_known(request, digest):
        return web.Response(status=304, headers=headers), 0, 0
    start, count, status = 0, size, 200
    wanted = request.headers.get("Range")
    if wanted is not None and request.headers.get("If-Range", f'"{digest}"') == f'"{digest}"':
        chosen = bodies.parse_range(wanted, size)
        if chosen is not None:
            start, count = chosen
            status = 206
            headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
    headers["Content-Length"] = str(count)
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers), start, count
    return web.StreamResponse(status=status, headers=headers), start, count
