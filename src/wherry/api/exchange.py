"""One request and its answer, as handlers see them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from wherry.api import parameters
from wherry.api.connection import BodyReader, Connection
from wherry.api.wire import Head, date, response_head
from wherry.errors import InvalidRequest
from wherry.spec.docker.body import encode, html_escaped, read
from wherry.spec.docker.request import Filters, Hijacked

MAX_JSON = 16 * 1024 * 1024
MAX_CHUNK = 64 * 1024
MAX_TOLD = 500  # characters; Go's client reads lines of 4096 bytes
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer that fits in memory.  ``bare``: without the headers that speak of the API."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    bare: bool = False


class Request:
    """A request whose head has come; ``groups`` are the route's named parts of the path."""

    def __init__(
        self,
        connection: Connection,
        head: Head,
        *,
        version: tuple[int, int],
        groups: Mapping[str, str],
        headers: Mapping[str, str],
        body: BodyReader | None = None,
    ) -> None:
        self.head = head
        self.version = version
        self.groups = groups
        self.body = body or BodyReader(connection, head)
        self.started = False  # has an answer begun?
        self.taken = False  # does the connection belong to someone else?
        self._connection = connection
        self._headers = headers
        self._query: dict[str, list[str]] | None = None
        self._stream: Stream | None = None

    # -- the query

    def values(self, name: str) -> list[str]:
        if self._query is None:
            self._query = parameters.parse_query(self.head.query)
        return self._query.get(name, [])

    def text(self, name: str, default: str = "") -> str:
        values = self.values(name)
        return values[0] if values else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        values = self.values(name)
        return parameters.boolean(values[0]) if values else default

    def integer(self, name: str, default: int = 0) -> int:
        return parameters.integer(self.text(name), default)

    def optional_integer(self, name: str) -> int | None:
        text = self.text(name)
        return parameters.integer(text) if text else None

    def filters(self) -> Filters:
        return parameters.filters(self.text("filters"))

    # -- the body

    async def json(self, kind: type[T], *, optional: bool = False) -> T:
        """The body as ``kind``.  ``optional``: an absent one is ``kind()``.  Raises InvalidRequest."""
        content_type = self.head.headers.get("content-type", "")
        if not (self.body.is_empty and not content_type):
            _check_json(content_type)
        if self.body.is_empty and optional:
            return kind()
        try:
            return read(kind, await self.body.read(MAX_JSON))
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    # -- the answer

    async def respond(self, response: Response) -> None:
        """Send the whole answer."""
        headers = self._base(response.headers, bare=response.bare)
        if response.status not in (204, 304):
            headers["Content-Length"] = str(len(response.body))
        if not self.head.keep_alive:
            headers["Connection"] = "close"
        body = b"" if self.head.method == "HEAD" else response.body
        self.started = True
        await self._connection.send(response_head(response.status, headers) + body)

    async def start_stream(self, content_type: str, headers: Mapping[str, str] | None = None) -> Stream:
        """Begin an answer of unknown length."""
        chunked = self.head.minor > 0
        more = {"Content-Type": content_type, **(headers or {})}
        more |= {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        self.started = True
        await self._connection.send(response_head(200, self._base(more)))
        self._stream = Stream(self._connection, chunked=chunked)
        return self._stream

    async def break_off(self, message: str) -> None:
        """Say why the begun answer ends here; the connection is to be cut then."""
        if self._stream:
            await self._stream.break_off(message)

    async def take_over(self, head: bytes) -> Hijacked:
        """Send ``head`` and give the connection away.  The body must have been read."""
        self.started = self.taken = True
        return await self._connection.take_over(head)

    async def upgrade(self, head: bytes) -> Connection:
        """Send ``head`` and go on in another protocol over the connection.  The body must have been read.  Raises ClientGone."""
        self.started = self.taken = True
        await self._connection.send(head)
        return self._connection

    def _base(self, headers: Mapping[str, str], *, bare: bool = False) -> dict[str, str]:
        base = {} if bare else dict(self._headers)
        return {**base, **headers, "Date": date(int(time.time()))}


class Stream:
    """An answer on its way.  Left without ``finish`` (an error), the connection is cut, so the client sees that it is not whole."""

    def __init__(self, connection: Connection, *, chunked: bool) -> None:
        self._connection = connection
        self._chunked = chunked

    async def write(self, data: bytes) -> None:
        """Raises ClientGone."""
        if len(data) > MAX_CHUNK:  # measured: 1 MiB goes faster in sixteen writes than in one
            view = memoryview(data)
            for start in range(0, len(view), MAX_CHUNK):
                await self.write(bytes(view[start : start + MAX_CHUNK]))
        elif data:
            await self._connection.send(self._chunk(data))

    async def finish(self, last: bytes = b"") -> None:
        """End the answer, with ``last``, which is small.  Raises ClientGone."""
        end = b"0\r\n\r\n" if self._chunked else b""
        if data := (self._chunk(last) if last else b"") + end:
            await self._connection.send(data)

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    async def break_off(self, message: str) -> None:
        """Begin a chunk that never comes; its extension (RFC 9112, 7.1.1), which other clients skip, tells ours ``message``."""
        if self._chunked:
            await self._connection.send(b"1;error=%b\r\n" % encode(message[:MAX_TOLD]).rstrip())


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None, *, escape_html: bool = False) -> Response:
    """``value`` as a JSON answer.  ``escape_html``: as Docker writes the few bodies that encode themselves."""
    body = encode(value)
    return Response(status=status, body=html_escaped(body) if escape_html else body, headers={"Content-Type": JSON, **(headers or {})})


def failure(status: int, message: str, *, bare: bool = False) -> Response:
    """An error as clients expect it."""
    if status == 304:
        return Response(status=304)
    return Response(status=status, body=encode({"message": message}), headers={"Content-Type": JSON}, bare=bare)


NO_CONTENT = Response(status=204)


def _check_json(content_type: str) -> None:
    if not content_type:
        raise InvalidRequest("malformed Content-Type header (): mime: no media type")
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise InvalidRequest(f"unsupported Content-Type header ({content_type}): must be 'application/json'")
