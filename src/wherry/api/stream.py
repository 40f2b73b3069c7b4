"""Answers that are neither empty nor one JSON value: progress, raw chunks, and connections taken over."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from wherry.api import websocket
from wherry.api.connection import ClientGone, Connection
from wherry.api.exchange import JSON, Request
from wherry.api.failures import explain
from wherry.api.websocket import Opcode
from wherry.api.wire import frame
from wherry.errors import EngineError
from wherry.spec.docker.body import encode
from wherry.spec.docker.request import Hijack, Hijacked

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"
TAR = "application/x-tar"
STDOUT = 1
SEND_TIMEOUT_S = 5.0
UNREAD_TIMEOUT_S = 2.0
_CAREFUL = ("Wherry-Client/", "Docker-Client/")  # these take what came with the head for the stream's beginning
PIECE_BYTES = 32 << 10  # of a WebSocket's messages, as Docker cuts them

T = TypeVar("T")


async def send_chunks(request: Request, content_type: str, chunks: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> None:
    """``chunks`` as they come.  An error before the first becomes a status; after it the connection is cut."""
    async with _begun(chunks) as (first, rest):
        stream = await request.start_stream(content_type, headers)
        if first is not None:
            await stream.write(first)
            async for chunk in rest:
                await stream.write(chunk)
        await stream.finish()


async def send_live(request: Request, content_type: str, chunks: AsyncIterator[bytes]) -> None:
    """Like ``send_chunks``, with the head sent at once: nothing may come for long."""
    async with _closing(chunks):
        stream = await request.start_stream(content_type)
        async for chunk in chunks:
            await stream.write(chunk)
        await stream.finish()


async def send_progress(request: Request, records: AsyncIterator[Mapping[str, object]], *, begun: bool = False) -> None:
    """``records`` as JSON objects, each ended by CRLF.  An error before the first becomes a status, a later one the last record.

    ``begun``: the head goes before the first record, so that an error is always a record.
    """
    if begun:
        async with _closing(records):
            await _send_records(request, None, records)
        return
    async with _begun(records) as (first, rest):
        await _send_records(request, first, rest)


async def _send_records(request: Request, first: Mapping[str, object] | None, rest: AsyncIterator[Mapping[str, object]]) -> None:
    stream = await request.start_stream(JSON)
    try:
        if first is not None:
            await stream.write(_line(first))
        async for record in rest:
            await stream.write(_line(record))
    except Exception as error:  # the edge: the head is sent, so the failure travels in the stream
        if isinstance(error, ClientGone):
            raise
        _, message = explain(error)
        await stream.write(_line({"errorDetail": _detail(error, message), "error": message}))
    await stream.finish()


async def serve_hijacked(request: Request, operation: Callable[[Hijack], Awaitable[None]]) -> None:
    """Run ``operation``, which may take the connection over.  An error after that is told inside the stream, on standard output."""

    async def take(tty: bool) -> Hijacked:
        return await request.take_over(upgrade_head(request, tty=tty))

    patient = not request.head.headers.get("user-agent", "").startswith(_CAREFUL)
    await _serve_taken(operation, take, framed=True, patient=patient)


async def serve_websocket(request: Request, operation: Callable[[Hijack], Awaitable[None]], *, reads: bool) -> None:
    """Like ``serve_hijacked``, over a WebSocket: what ``operation`` takes over is one end of a socket pair, whose bytes are messages here.

    ``reads``: does the operation want what the client says?  Then the client's end is only the end of that.  Raises websocket.Refused.
    """
    opcode = Opcode.BINARY if request.version >= (1, 28) else Opcode.TEXT
    async with AsyncExitStack() as bridge:

        async def take(_tty: bool) -> Hijacked:
            connection = await request.upgrade(websocket.response_head(request.head.headers))
            return Hijacked(fd=await bridge.enter_async_context(_bridged(connection, opcode, reads=reads)), leftover=b"")

        await _serve_taken(operation, take, framed=False, patient=False)


async def _serve_taken(operation: Callable[[Hijack], Awaitable[None]], take: Hijack, *, framed: bool, patient: bool) -> None:
    """``framed``: without a terminal, is the stream one of frames?  ``patient``: it begins when the client has read the head."""
    taken: list[tuple[Hijacked, bool]] = []

    async def hijack(tty: bool) -> Hijacked:
        hijacked = await take(tty)
        taken.append((hijacked, framed and not tty))
        if patient:
            await _until_read(hijacked.fd)
        return hijacked

    try:
        await operation(hijack)
    except Exception as error:  # the edge: whatever happened, the client is told
        if not taken:
            raise
        if not isinstance(error, ConnectionError):
            await _tell(taken[0][0].fd, f"{explain(error)[1]}\r\n".encode(), framed=taken[0][1])
    finally:
        if taken:
            os.close(taken[0][0].fd)


@asynccontextmanager
async def _bridged(connection: Connection, opcode: Opcode, *, reads: bool) -> AsyncIterator[int]:
    """The far end of a socket pair, which the caller closes; in the end, wait until either side has no more to say."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near:
        async with asyncio.TaskGroup() as directions:
            receiving = directions.create_task(_receive(connection, near, reads=reads))
            directions.create_task(_send(connection, near, opcode, receiving))
            yield far.detach()


async def _receive(connection: Connection, near: socket.socket, *, reads: bool) -> int:
    """Hand on what the client says until its end; the code that the conversation is then to be closed with."""
    loop, code, decoder = asyncio.get_running_loop(), websocket.NORMAL, websocket.Decoder()
    try:
        while True:
            for piece in decoder.feed(await connection.take(PIECE_BYTES)):
                if piece.opcode is Opcode.CLOSE:
                    raise ClientGone("the client has closed the WebSocket")
                if piece.opcode is Opcode.PING:
                    await connection.send(websocket.frame(Opcode.PONG, piece.payload))
                elif piece.opcode is not Opcode.PONG and reads:
                    await loop.sock_sendall(near, piece.payload)
    except websocket.Violation:
        reads, code = False, websocket.PROTOCOL_ERROR
    except ConnectionError:  # the client's end, or the program's
        pass
    with contextlib.suppress(OSError):
        near.shutdown(socket.SHUT_WR if reads else socket.SHUT_RDWR)
    return code


async def _send(connection: Connection, near: socket.socket, opcode: Opcode, receiving: asyncio.Task[int]) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # nobody reads any more
        while data := await loop.sock_recv(near, PIECE_BYTES):
            await connection.send(websocket.frame(opcode, data))
        await connection.send(websocket.closing(receiving.result() if receiving.done() else websocket.NORMAL))
    receiving.cancel()


async def _until_read(fd: int) -> None:
    """Wait, not for long, until the client has read all that was sent.

    docker-py reads an answer's head through a buffer and the stream past it: output that came with the head would be lost.
    """
    deadline = time.monotonic() + UNREAD_TIMEOUT_S
    pause = 0.0002
    while struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0] and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.01)


def upgrade_head(request: Request, *, tty: bool) -> bytes:
    """The head that turns a connection into a stream: 101 where the client asked for an upgrade, else 200."""
    if "upgrade" not in request.head.headers:
        return f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n\r\n".encode()
    kind = stream_type(request, tty=tty)
    return f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()


def stream_type(request: Request, *, tty: bool) -> str:
    return RAW if tty or request.version < (1, 42) else MULTIPLEXED


@asynccontextmanager
async def _closing(source: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    try:
        yield source
    finally:
        close = getattr(source, "aclose", None)  # every asynchronous generator has one, a plain iterator need not
        if close is not None:
            await close()


@asynccontextmanager
async def _begun(source: AsyncIterator[T]) -> AsyncIterator[tuple[T | None, AsyncIterator[T]]]:
    """The first item (None: there is none) and the rest; closed in the end."""
    async with _closing(source):
        yield await anext(source, None), source


def _line(record: Mapping[str, object]) -> bytes:
    return encode(record)[:-1] + b"\r\n"


def _detail(error: Exception, message: str) -> dict[str, object]:
    code = getattr(error, "code", None) if isinstance(error, EngineError) else None
    return {"code": code, "message": message} if isinstance(code, int) else {"message": message}


async def _tell(fd: int, text: bytes, *, framed: bool) -> None:
    """Write ``text`` to a taken-over connection; a client that does not read is not waited for long."""
    with socket.socket(fileno=os.dup(fd)) as client, contextlib.suppress(OSError, TimeoutError):
        client.setblocking(False)
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(client, frame(STDOUT, text) if framed else text)
