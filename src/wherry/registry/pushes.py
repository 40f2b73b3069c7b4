"""What a registry does for those who push and delete: manifests, uploads of blobs in one piece or in chunks, mounts.

Source: OCI distribution-spec 1.1, end-4 to end-7, end-9 to end-11, end-13.
"""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from wherry.registry import bodies, documents
from wherry.registry.bodies import Limits, in_thread
from wherry.registry.documents import Document
from wherry.registry.failures import Failure
from wherry.registry.holdings import Holdings, UnknownBlob
from wherry.registry.naming import AnyDigest, is_name
from wherry.registry.pulls import Call, checked_digest, reference
from wherry.registry.uploads import TooManyUploads, Upload, UploadBusy, Uploads, WrongDigest
from wherry.spec import image as spec
from wherry.spec.image import InvalidDocument

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]{1,18}|\*))?")
_READERS = 4


class Pushes:
    def __init__(self, holdings: Holdings, uploads: Uploads, limits: Limits) -> None:
        self._holdings = holdings
        self._uploads = uploads
        self._limits = limits
        self._reading = asyncio.Semaphore(_READERS)  # a document of 4 MiB may take ten times that while it is read

    # --- manifests

    async def put_manifest(self, call: Call) -> web.StreamResponse:
        what = reference(call.rest)
        async with self._reading:
            raw = await bodies.document(call.request, self._limits, spec.MANIFEST_LIMIT)
            if isinstance(what, AnyDigest) and AnyDigest.of(raw, what.algorithm) != what:
                raise Failure("DIGEST_INVALID", detail={"digest": what})
            try:
                document = await in_thread(documents.read, raw, call.request.headers.get("Content-Type", ""))
            except InvalidDocument as error:
                raise Failure("MANIFEST_INVALID", str(error)) from error
        digest = await self._keep(call, what, raw, document)
        headers = {"Location": f"/v2/{call.name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if document.subject:
            headers["OCI-Subject"] = document.subject
        return web.Response(status=201, headers=headers)

    async def _keep(self, call: Call, what: AnyDigest | str, raw: bytes, document: Document) -> AnyDigest:
        try:
            return await in_thread(self._holdings.put_manifest, call.name, what, raw, document)
        except UnknownBlob as error:
            raise Failure("MANIFEST_BLOB_UNKNOWN", detail={"digest": error.args[0]}) from error

    async def delete_manifest(self, call: Call) -> web.StreamResponse:
        what = reference(call.rest)
        try:
            await in_thread(self._holdings.remove_manifest, call.name, what)
        except FileNotFoundError:
            raise Failure("MANIFEST_UNKNOWN", detail={"name": call.name, "reference": what}) from None
        return web.Response(status=202)

    # --- blobs

    async def delete_blob(self, call: Call) -> web.StreamResponse:
        digest = checked_digest(call.rest)
        try:
            await in_thread(self._holdings.remove_blob, call.name, digest)
        except FileNotFoundError:
            raise Failure("BLOB_UNKNOWN", detail={"digest": digest}) from None
        return web.Response(status=202, headers={"Docker-Content-Digest": digest})

    async def upload(self, call: Call) -> web.StreamResponse:
        """A request to one upload, or (with no upload named) for a new one."""
        try:
            if not call.rest:
                call.only("POST")
                return await self._begin(call)
            call.only("GET", "PATCH", "PUT", "DELETE")
            if call.request.method == "GET":
                size = await in_thread(self._uploads.size, call.name, call.rest)
                return web.Response(status=204, headers=_progress(call.name, call.rest, size))
            if call.request.method == "DELETE":
                await in_thread(self._uploads.cancel, call.name, call.rest)
                return web.Response(status=204)
            with self._uploads.open(call.name, call.rest) as upload:
                return await self._receive(call, upload)
        except FileNotFoundError:
            raise Failure("BLOB_UPLOAD_UNKNOWN") from None
        except UploadBusy:
            raise Failure("TOOMANYREQUESTS", "another request writes to this upload", headers={"Retry-After": "1"}) from None
        except TooManyUploads:
            raise Failure("TOOMANYREQUESTS", "too many uploads are unfinished", headers={"Retry-After": "60"}) from None

    async def _begin(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        if (mount := query.get("mount")) is not None:
            digest = checked_digest(mount)
            source = query.get("from", "")
            if source and not is_name(source):
                raise Failure("NAME_INVALID", detail={"name": source[:200]})
            is_open = call.may_pull is None or (source != "" and call.may_pull(source))  # else nobody is told what others have
            if is_open and await in_thread(self._holdings.mount_blob, call.name, digest, source):
                return _created(call.name, digest)
        wanted = checked_digest(query["digest"]) if mount is None and "digest" in query else None
        ident = await in_thread(self._uploads.begin, call.name)
        if wanted is None:
            return web.Response(status=202, headers=_progress(call.name, ident, 0))
        with self._uploads.open(call.name, ident) as upload:
            try:
                await bodies.receive(call.request, self._limits, upload.append, room=self._limits.blob_bytes)
                return await self._finish(call.name, upload, wanted)
            except BaseException:
                upload.discard()  # nobody was told its name
                raise

    async def _receive(self, call: Call, upload: Upload) -> web.StreamResponse:
        request = call.request
        wanted = checked_digest(request.query.get("digest", "")) if request.method == "PUT" else None
        begun = upload.size_bytes
        length = _claimed_length(call, upload)
        await bodies.receive(request, self._limits, upload.append, room=self._limits.blob_bytes - begun)
        if length is not None and upload.size_bytes - begun != length:
            await in_thread(upload.cut, begun)
            raise Failure("SIZE_INVALID", "the body is not as long as Content-Range says", status=400)
        if wanted is not None:
            return await self._finish(call.name, upload, wanted)
        return web.Response(status=202, headers=_progress(call.name, call.rest, upload.size_bytes))

    async def _finish(self, name: str, upload: Upload, digest: AnyDigest) -> web.StreamResponse:
        def keep() -> None:
            upload.check(digest)
            self._holdings.add_blob(name, digest, upload.path)

        try:
            await in_thread(keep)
        except WrongDigest as error:
            raise Failure("DIGEST_INVALID", detail={"digest": digest, "received": error.args[0]}) from error
        return _created(name, digest)


def _claimed_length(call: Call, upload: Upload) -> int | None:
    """How many bytes ``Content-Range`` announces.  Raises Failure (416) when they do not follow what has come."""
    claimed = call.request.headers.get("Content-Range")
    if claimed is None:
        return None
    found = _CONTENT_RANGE.fullmatch(claimed)
    if found is None or int(found[2]) < int(found[1]):
        raise Failure(
            "BLOB_UPLOAD_INVALID", "invalid Content-Range", status=416, headers=_progress(call.name, call.rest, upload.size_bytes)
        )
    length = int(found[2]) - int(found[1]) + 1
    if int(found[1]) != upload.size_bytes:
        words = f"{upload.size_bytes} bytes have come, the chunk begins at {found[1]}"
        raise Failure("BLOB_UPLOAD_INVALID", words, status=416, headers=_progress(call.name, call.rest, upload.size_bytes))
    if call.request.content_length not in (None, length):
        raise Failure("SIZE_INVALID", "Content-Range and Content-Length differ", status=400)
    return length


def _progress(name: str, ident: str, size: int) -> dict[str, str]:
    return {"Location": f"/v2/{name}/blobs/uploads/{ident}", "Range": f"0-{max(0, size - 1)}", "Docker-Upload-UUID": ident}


def _created(name: str, digest: AnyDigest) -> web.Response:
    return web.Response(status=201, headers={"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})
