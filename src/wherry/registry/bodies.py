"""Request bodies in and response bodies out, in bounded memory, from and to clients that may be slow, but not endlessly slow."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from wherry.registry.failures import Failure
from wherry.registry.objects import Objects

log = logging.getLogger(__name__)
T = TypeVar("T")

COMMON = {"Server": "wherry", "Docker-Distribution-Api-Version": "registry/2.0"}
"""Headers of every answer."""

_BLOCK = 1 << 20
_FILE_BLOCK = 4 << 20
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take.  ``stall_s``: for each megabyte, of a body or of an answer."""

    stall_s: float = 300.0
    idle_s: float = 60.0
    connections: int = 1000
    blob_bytes: int = 128 << 30


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """``work`` in a thread."""
    return await in_flight(asyncio.get_running_loop().run_in_executor(None, work, *arguments))


async def in_flight(future: asyncio.Future[T]) -> T:
    """The end of what runs in a thread; also when the request is given up meanwhile, since the thread uses what the caller closes."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # looked at: nobody is left to be told
        raise


async def receive(request: web.BaseRequest, limits: Limits, append: Callable[[list[bytes]], object], *, room: int) -> None:
    """Hand the body to ``append`` (in threads, one at a time), as far as it comes.  Raises Failure: more than ``room`` bytes, stalled."""
    if request.content_length is not None and request.content_length > room:
        raise _too_large(limits)
    await _welcome(request)
    parts: list[bytes] = []
    writing: asyncio.Future[object] | None = None
    loop = asyncio.get_running_loop()

    async def settle() -> None:
        nonlocal writing
        if writing is not None:
            last, writing = writing, None
            await in_flight(last)

    try:
        while count := await _fill(request, limits, parts):
            block, parts = parts, []
            room -= count
            await settle()
            if room < 0:
                raise _too_large(limits)
            writing = loop.run_in_executor(None, append, block)  # while the next block comes
    except TimeoutError:
        raise Failure("BLOB_UPLOAD_INVALID", "the body comes too slowly", status=408) from None
    finally:
        await settle()
        if parts and sum(map(len, parts)) <= room:
            await in_thread(append, parts)


async def _welcome(request: web.BaseRequest) -> None:
    """A client that asks before it sends the body may send it.  Source: RFC 9110, 10.1.1."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # no part of the answer


async def _fill(request: web.BaseRequest, limits: Limits, parts: list[bytes]) -> int:
    """Add about a block to ``parts``; how much.  Raises TimeoutError."""
    held = 0
    async with asyncio.timeout(limits.stall_s):
        while held < _BLOCK:
            piece, _ = await request.content.readchunk()
            if piece:
                parts.append(piece)
                held += len(piece)
            elif request.content.at_eof():
                break
    return held


async def document(request: web.BaseRequest, limits: Limits, limit: int) -> bytes:
    """A small body whole.  Raises Failure beyond ``limit`` bytes."""
    failure = Failure("SIZE_INVALID", f"a manifest may have at most {limit} bytes")
    if (request.content_length or 0) > limit:
        raise failure
    await _welcome(request)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.stall_s):
            while piece := await request.content.readany():
                size += len(piece)
                if size > limit:
                    raise failure
                parts.append(piece)
    except TimeoutError:
        raise Failure("MANIFEST_INVALID", "the body comes too slowly", status=408) from None
    return b"".join(parts)


async def send(request: web.BaseRequest, response: web.StreamResponse, pieces: AsyncIterator[bytes], limits: Limits) -> None:
    """Answer with ``pieces``.  Raises ConnectionResetError when either end fails: what was begun can't be taken back."""
    await response.prepare(request)
    try:
        async for piece in pieces:
            async with asyncio.timeout(limits.stall_s):
                await response.write(piece)
        await response.write_eof()
    except (OSError, TimeoutError) as error:
        raise _broken(request, error) from error


async def send_file(
    request: web.BaseRequest, response: web.StreamResponse, path: str, start: int, count: int, limits: Limits, *, by_kernel: bool
) -> None:
    """Answer with part of a file; ``by_kernel``: the connection is a plain one.  Raises FileNotFoundError, ConnectionResetError."""
    with open(path, "rb") as file:
        if not by_kernel:
            await send(request, response, stream(_read(file, start, count)), limits)
            return
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        try:
            while count:
                transport = request.transport
                if transport is None:
                    raise ConnectionResetError("the client is gone")
                async with asyncio.timeout(limits.stall_s):
                    sent = await loop.sendfile(transport, file, start, min(count, _FILE_BLOCK), fallback=True)
                if not sent:
                    raise OSError(f"{path} is shorter than it was")
                start += sent
                count -= sent
            await response.write_eof()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise _broken(request, error) from error


async def stream(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A blocking iterator's items, each got in a thread."""
    try:
        while (piece := await in_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        close: Callable[[], object] = getattr(pieces, "close", lambda: None)
        close()


def stored(objects: Objects, key: str, start: int, count: int) -> AsyncIterator[bytes]:
    return stream(objects.pieces(key, start, count))


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """(start, count) of a Range header; None for one that is not understood and so ignored.  Raises Failure where nothing lies in it.

    One that ends before it begins is refused too, as OCI's conformance suite wants.  Source: RFC 9110, 14.2.
    """
    found = _RANGE.fullmatch(text.replace(" ", "")) if len(text) <= 100 and text.isascii() else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size - 1
        is_empty = int(found[2]) == 0
    else:
        start, end = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
        is_empty = end < start
    if is_empty or start >= size:
        raise Failure("SIZE_INVALID", "range not satisfiable", status=416, headers={"Content-Range": f"bytes */{size}"})
    return start, end - start + 1


def _read(file: Any, start: int, count: int) -> Iterator[bytes]:
    file.seek(start)
    while count > 0 and (piece := file.read(min(_BLOCK, count))):
        count -= len(piece)
        yield piece


def _too_large(limits: Limits) -> Failure:
    return Failure("SIZE_INVALID", f"a blob may have at most {limits.blob_bytes} bytes")


def _broken(request: web.BaseRequest, error: Exception) -> ConnectionResetError:
    if not isinstance(error, ConnectionError):
        log.warning("%s: broken off: %s", request.path[:200], error or type(error).__name__)
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError(str(error))
