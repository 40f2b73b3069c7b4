"""One client's connection: bytes in with back-pressure, bytes out with back-pressure, and the socket itself when it is taken over.

A connection has one task, which serves its requests in order. While a request that says so is being served (``cancellable``), the client's
going cancels that task: nobody waits, follows a log or pulls for a client that has left. Other requests run to their end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from wherry.api.wire import MAX_CHUNK_LINE, MAX_HEAD, Head, Malformed, parse_chunk_size, parse_head
from wherry.spec.docker.request import Hijacked

HIGH_WATER = 256 * 1024  # bytes read ahead of the handler before the socket is left alone
HEAD_TIMEOUT_S = 30.0  # from a request's first byte to the end of its head
DISCARD_LIMIT = 16 * 1024 * 1024  # of an unread body, so that the client gets to read the answer
DISCARD_TIMEOUT_S = 5.0
END_OF_HEAD = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger(__name__)


class ClientGone(ConnectionError):
    """The client went away in the middle of something."""


class Connection(asyncio.Protocol):
    """``serve`` runs once per connection, as a task of ``tasks``."""

    def __init__(
        self, serve: Callable[[Connection], Awaitable[None]], tasks: asyncio.TaskGroup, *, head_timeout_s: float = HEAD_TIMEOUT_S
    ) -> None:
        self._serve = serve
        self._tasks = tasks
        self._head_timeout_s = head_timeout_s
        self._buffer = bytearray()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = False
        self._cancellable = False
        self._reading = True
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self.closed = asyncio.Event()

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._task = self._tasks.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._readable.set()
        if len(self._buffer) > HIGH_WATER:
            self._transport.pause_reading()
            self._reading = False

    def eof_received(self) -> bool:
        self._leave()
        return True  # half-closed: an answer may still be read

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._writable.set()
        self._leave()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- what a server calls

    @property
    def gone(self) -> bool:
        return self._gone

    def set_cancellable(self, on: bool) -> None:
        """From now on, does the client's going cancel what is done for it?"""
        self._cancellable = on
        if self._gone:
            self._cancel()

    async def read_head(self) -> Head | None:
        """The next request's head; None when the client has said its last.  Raises Malformed, with status 408 or 431 where that fits."""
        while not self._buffer:
            if not await self._fill():
                return None
        if self._buffer.find(END_OF_HEAD, 0, MAX_HEAD) >= 0:  # nearly always: then no timer is needed
            return parse_head(await self._through(END_OF_HEAD, MAX_HEAD))
        try:
            async with asyncio.timeout(self._head_timeout_s):
                return parse_head(await self._through(END_OF_HEAD, MAX_HEAD))
        except TimeoutError:
            raise Malformed("request timeout", 408) from None

    async def take(self, limit: int) -> bytes:
        """Between 1 and ``limit`` bytes.  Raises ClientGone."""
        while not self._buffer:
            if not await self._fill():
                raise self._went("unexpected EOF")
        if limit >= len(self._buffer):
            data = bytes(self._buffer)
            self._buffer.clear()
        else:
            with memoryview(self._buffer) as view:  # a slice of the buffer itself would be one more copy
                data = bytes(view[:limit])
            del self._buffer[:limit]
        self._resume()
        return data

    async def take_line(self, limit: int) -> bytes:
        """Up to and without the next CRLF.  Raises ClientGone, Malformed."""
        return await self._through(b"\r\n", limit)

    def write(self, data: bytes) -> None:
        """Without waiting: for small things."""
        self._transport.write(data)

    async def send(self, data: bytes) -> None:
        """Raises ClientGone when nobody reads any more."""
        if self._transport.is_closing():
            raise self._went("the client has gone")
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    async def take_over(self, head: bytes) -> Hijacked:
        """Send ``head``, then leave the socket to the caller, who closes its descriptor.  Raises ClientGone.

        The transport only closes its own descriptor: asyncio never calls shutdown(2) for a plain socket.
        """
        self._transport.set_write_buffer_limits(high=0)
        await self.send(head)
        if self._transport.is_closing():
            raise ClientGone("the client has gone")
        self._transport.pause_reading()
        self._cancellable = False
        fd = os.dup(self._transport.get_extra_info("socket").fileno())
        self._transport.abort()
        return Hijacked(fd=fd, leftover=bytes(self._buffer))

    async def close(self) -> None:
        """Send what is left, then close."""
        self._transport.close()
        await self.closed.wait()

    # -- private

    async def _run(self) -> None:
        try:
            await self._serve(self)
        except ConnectionError:
            pass
        except Exception:  # the edge: one connection never takes the others down
            log.exception("connection failed")
        finally:
            self._transport.close()

    def _leave(self) -> None:
        self._gone = True
        self._readable.set()
        self._cancel()

    def _went(self, message: str) -> ClientGone:
        """Who is told of it so need not be told by being cancelled as well."""
        self._cancellable = False
        return ClientGone(message)

    def _cancel(self) -> None:
        """Once: a second time, when after its end the connection is lost, would cut off what tidies up."""
        if self._cancellable:
            self._cancellable = False
            self._task.cancel()

    async def _fill(self) -> bool:
        """Wait for more; False when no more will come."""
        if self._gone:
            return False
        self._readable.clear()
        self._resume()
        await self._readable.wait()
        return bool(self._buffer)

    def _resume(self) -> None:
        if not self._reading and len(self._buffer) <= HIGH_WATER // 2:
            self._reading = True
            self._transport.resume_reading()

    async def _through(self, end: bytes, limit: int) -> bytes:
        start = 0
        while (at := self._buffer.find(end, start)) < 0:
            start = max(0, len(self._buffer) - len(end) + 1)
            known = len(self._buffer)
            if known >= limit + len(end):
                raise Malformed("request header fields too large", 431)
            await self._fill()
            if len(self._buffer) == known and self._gone:
                raise self._went("unexpected EOF")
        if at > limit:
            raise Malformed("request header fields too large", 431)
        data = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return data


class BodyReader:
    """A request's body, read once, in pieces."""

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._left = head.length  # None: chunked, and between chunks
        self._chunk = 0
        self._expects = head.headers.get("expect", "").lower() == "100-continue"
        self.finished = head.length == 0

    @property
    def is_empty(self) -> bool:
        """Was there none to begin with (or nothing is left)?"""
        return self.finished

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.piece():
            yield piece

    async def piece(self) -> bytes:
        """The next bytes; empty at the end.  Raises ClientGone when the client stops short, Malformed."""
        if self.finished:
            return b""
        if self._expects:
            self._expects = False
            self._connection.write(CONTINUE)
        if self._left is None:
            return await self._chunk_piece()
        data = await self._connection.take(min(self._left, HIGH_WATER))
        self._left -= len(data)
        self.finished = self._left == 0
        return data

    async def read(self, limit: int) -> bytes:
        """All of it.  Raises ValueError when it is longer than ``limit``."""
        data = bytearray()
        async for piece in self:
            data += piece
            if len(data) > limit:
                raise ValueError("request body too large")
        return bytes(data)

    async def discard(self) -> bool:
        """Read on so that the client finishes sending; False when that takes too much."""
        if self._expects:
            return False  # the client may or may not send it
        size = 0
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                while piece := await self.piece():
                    size += len(piece)
                    if size > DISCARD_LIMIT:
                        return False
        except (TimeoutError, Malformed, ConnectionError):
            return False
        return True

    async def _chunk_piece(self) -> bytes:
        if self._chunk == 0:
            self._chunk = parse_chunk_size(await self._connection.take_line(MAX_CHUNK_LINE))
            if self._chunk == 0:
                await self._trailers()
                self.finished = True
                return b""
        data = await self._connection.take(min(self._chunk, HIGH_WATER))
        self._chunk -= len(data)
        if self._chunk == 0 and await self._connection.take_line(0):
            raise Malformed("malformed chunk")
        return data

    async def _trailers(self) -> None:
        size = 0
        while line := await self._connection.take_line(MAX_HEAD):
            size += len(line)
            if size > MAX_HEAD:
                raise Malformed("request header fields too large", 431)
