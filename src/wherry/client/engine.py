"""The Engine API as calls: ``Engine.get("/containers/json", {"all": True})``.

One connection is kept and used again; streams and taken-over connections get their own. No request is spent on negotiating a
version: when the peer finds ours too new it says which it speaks, and the request is sent again with that one.
"""

from __future__ import annotations

from wherry.client import jsontext
from wherry.client.http import ClosedEarly, ConnectError, Connection, ProtocolError, Response, connect, quote

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from wherry.client.http import Tls

    Query = Mapping[str, object]

API_VERSION = "1.51"
PARALLEL = 32
_REDIRECTS = (301, 302, 303, 307, 308)  # nothing of the API is elsewhere: the path names nothing (``/images//json``)


class ApiError(Exception):
    """An answer with an error status; ``str`` is the daemon's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InvalidName(ApiError):
    """Nothing was asked, for this can name nothing; the message is Docker's."""


class Hijacked:
    """A taken-over connection: raw bytes both ways, framed unless ``raw``."""

    __slots__ = ("raw", "received", "socket")

    def __init__(self, sock: _socket.socket, received: bytes, *, raw: bool) -> None:
        self.socket = sock
        self.received = received
        self.raw = raw

    def close(self) -> None:
        self.socket.close()


class Engine:
    """A daemon at ``address``.  ``start`` is called once when nothing listens there, and may start one."""

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        version: str | None = None,
        start: Callable[[], None] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.address = address
        self.version = version or API_VERSION
        self._fixed = version is not None
        self._tls = tls
        self._start = start
        self._headers = headers or {}
        self._idle: Connection | None = None

    # -- the four ways to ask

    def call(self, method: str, path: str, query: Query | None = None, body: object = None, headers: dict[str, str] | None = None) -> Any:
        """Send ``body`` as JSON and return the answer's JSON, or None when it has none.  Raises ApiError, ConnectError."""
        return self._content(self.stream(method, path, query, body, headers))

    def _content(self, response: Response) -> Any:
        text = response.read()
        self.done(response)
        if not text:
            return None
        if response.media_type not in ("application/json", ""):
            return text.decode("utf-8", "replace")
        return jsontext.parse(text)

    def get(self, path: str, query: Query | None = None) -> Any:
        return self.call("GET", path, query)

    def post(
        self,
        path: str,
        query: Query | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """``meanwhile`` is called while the daemon is at work: for what is needed next, and takes time."""
        return self._content(self.stream("POST", path, query, body, headers, meanwhile=meanwhile))

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self.call("DELETE", path, query)

    def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        *,
        raw: bytes | Iterable[bytes | memoryview] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Response:
        """The answer with its body unread, once its status is known to be good; ``raw`` is a body that is not JSON.

        The caller reads it to the end and calls ``done``, or closes it.
        """
        sent = dict(self._headers)
        payload: bytes | Iterable[bytes | memoryview] | None = raw
        if raw is None and body is not None:
            payload = jsontext.dump(body).encode()
            sent["Content-Type"] = "application/json"
        elif raw is not None:
            sent["Content-Type"] = "application/x-tar"
        if headers:
            sent.update(headers)
        response = self._exchange(method, path, query, sent, payload, meanwhile=meanwhile)
        if _is_failure(response):
            raise self._failure(response)
        return response

    def hijack(
        self, method: str, path: str, query: Query | None = None, body: object = None, meanwhile: Callable[[], None] | None = None
    ) -> Hijacked:
        """Take the connection over (attach, exec).  ``meanwhile``: as of `post`.  Raises ApiError."""
        sent = {**self._headers, "Connection": "Upgrade", "Upgrade": "tcp"}
        payload = None
        if body is not None:
            payload = jsontext.dump(body).encode()
            sent["Content-Type"] = "application/json"
        response = self._exchange(method, path, query, sent, payload, fresh=True, meanwhile=meanwhile)
        if response.status not in (101, 200):
            raise self._failure(response)
        sock, received = response.take_over()
        return Hijacked(sock, received, raw=response.media_type == "application/vnd.docker.raw-stream")

    def call_each(self, requests: Sequence[tuple[str, str, Query | None]]) -> Iterator[Any]:
        """Do all of ``requests`` at the same time; their answers in order, an ApiError in place of the answer of one that failed."""
        for start in range(0, len(requests), PARALLEL):
            batch = requests[start : start + PARALLEL]
            self._settle()
            sent = []
            for method, path, query in batch:
                connection = self._idle or self.connect()
                self._idle = None
                connection.send(method, f"/v{self.version}{path}{query_string(query)}", self._headers)
                sent.append((connection, method))
            for connection, method in sent:
                response = connection.receive(method)
                yield self._failure(response) if _is_failure(response) else self._content(response)

    def _settle(self) -> None:
        """Agree on the version before requests that are not repeated."""
        if not self._fixed:
            self.get("/_ping")
            self._fixed = True

    # -- connections

    def done(self, response: Response) -> None:
        """Keep the connection of a response that was read to its end, or close it."""
        if response.done and response.keep and self._idle is None:
            self._idle = response.connection
        else:
            response.close()

    def close(self) -> None:
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def connect(self) -> Connection:
        """A new connection; starts the daemon when that is allowed."""
        try:
            sock = connect(self.address, self._tls)
        except ConnectError as error:
            if self._start is None or not error.missing:
                raise
            start, self._start = self._start, None
            start()
            sock = connect(self.address, self._tls)
        return Connection(sock, "wherry" if self.address.startswith("unix:") else self.address.partition("://")[2].partition("/")[0])

    def _exchange(
        self,
        method: str,
        path: str,
        query: Query | None,
        headers: dict[str, str],
        body: bytes | Iterable[bytes | memoryview] | None,
        *,
        fresh: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Response:
        tail = path + query_string(query)
        while True:
            connection = None if fresh else self._idle
            if connection is None:
                connection = self.connect()
            else:
                self._idle = None
            try:
                response = connection.request(method, f"/v{self.version}{tail}", headers, body, meanwhile)
            except ClosedEarly:
                connection.close()
                if connection.used > 1 and (body is None or isinstance(body, bytes)):
                    continue  # an idle connection the daemon had closed: nothing was done with the request
                raise
            if response.status == 400 and not self._fixed and (body is None or isinstance(body, bytes)):
                older = self._spoken(response)
                if isinstance(older, ApiError):
                    raise older
                self.version, self._fixed = older, True
                continue
            return response

    def _spoken(self, response: Response) -> str | ApiError:
        """The highest version of a peer that found ours too new, or the error that the answer is."""
        failure = self._failure(response)
        marker = "is too new. Maximum supported API version is "
        _, found, version = str(failure).partition(marker)
        return version.strip() if found else failure

    def _failure(self, response: Response) -> ApiError:
        text = response.read()
        self.done(response)
        message = text.decode("utf-8", "replace").strip()
        if response.media_type == "application/json":
            try:
                message = str(jsontext.parse(text)["message"]).strip()
            except (ValueError, KeyError, TypeError):
                pass
        if response.status in _REDIRECTS:
            message = "page not found"
        if not message:
            message = f"request returned status {response.status}, check if the server supports the requested API version"
        return ApiError(response.status, message)


def _is_failure(response: Response) -> bool:
    return response.status >= 400 or response.status in _REDIRECTS


def query_string(query: Query | None) -> str:
    """``?a=1&b=x``; True is 1, False and None are left out, lists repeat, dicts are JSON (``filters``)."""
    if not query:
        return ""
    parts = []
    for name, value in query.items():
        if value is None or value is False:
            continue
        if isinstance(value, dict):
            if value:
                parts.append(f"{name}={quote(jsontext.dump(value))}")
        elif isinstance(value, (list, tuple)):
            parts += [f"{name}={quote(str(item))}" for item in value]
        else:
            parts.append(f"{name}={'1' if value is True else quote(str(value))}")
    return "?" + "&".join(parts) if parts else ""


def container_path(name: str, *rest: str) -> str:
    """``/containers/NAME/...`` with the name escaped.  Raises InvalidName for none."""
    if not name.strip():
        raise InvalidName(0, "invalid container name or ID: value is empty")
    return "/".join(("/containers", quote(name), *rest))


__all__ = [
    "API_VERSION",
    "ApiError",
    "ConnectError",
    "Engine",
    "Hijacked",
    "InvalidName",
    "ProtocolError",
    "container_path",
    "query_string",
]
