"""HTTP/1.1 over one socket, by hand: requests, bodies of known length, chunked and endless ones, take-over of the connection.

Written for start-up time: ``http.client`` and ``socket`` cost more than the whole request. Only ``_socket`` is imported; ``ssl`` when
asked for.
"""

from __future__ import annotations

import _socket
import os

from wherry.client import jsontext

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

RECEIVE = 1 << 18
MAX_HEAD = 1 << 16
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class ConnectError(Exception):
    """The address could not be reached; ``missing`` when nothing listens there at all."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class ProtocolError(Exception):
    """The peer does not speak HTTP, or went away in the middle."""


class ClosedEarly(ProtocolError):
    """The peer closed the connection without one byte of an answer."""


class BrokenOff(ProtocolError):
    """The daemon failed within its answer, and says why."""


class Tls:
    """Files for a TLS connection; ``verify`` checks the server's certificate.  ``authorities``: believed besides the system's."""

    __slots__ = ("authorities", "ca", "certificate", "key", "verify")

    def __init__(
        self,
        *,
        ca: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        verify: bool = True,
        authorities: Sequence[str] = (),
    ) -> None:
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self.verify = verify
        self.authorities = authorities


def quote(text: str, safe: bytes = b"") -> str:
    """Percent-encode for a path or query."""
    raw = text.encode()
    if all(byte in UNRESERVED for byte in raw):
        return text
    return "".join(chr(byte) if byte in UNRESERVED or byte in safe else f"%{byte:02X}" for byte in raw)


def connect(address: str, tls: Tls | None = None) -> _socket.socket:
    """A connected socket to ``unix:///path``, ``tcp://host:port``, ``http://`` or ``https://``.  Raises ConnectError."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        raise ConnectError(f"unable to parse docker host `{address}`")
    if scheme == "unix":
        return _connect_unix(rest, address)
    if scheme in ("tcp", "http", "https"):
        return _connect_tcp(rest, address, tls or (Tls() if scheme == "https" else None))
    raise ConnectError(f"{scheme}:// is not supported: use unix:// or tcp:// (got {address})")


def _connect_unix(path: str, address: str) -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except PermissionError as error:
        sock.close()
        raise ConnectError(
            f"permission denied while trying to connect to the Docker daemon socket at {address}: "
            f"dial unix {path}: connect: permission denied"
        ) from error
    except OSError as error:
        sock.close()
        missing = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
        raise ConnectError(f"Cannot connect to the Docker daemon at {address}. Is the docker daemon running?", missing=missing) from error
    return sock


def _connect_tcp(rest: str, address: str, tls: Tls | None) -> _socket.socket:
    host, port = split_host(rest.split("/", 1)[0], 2376 if tls else 2375)
    problem: OSError | None = None
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    except OSError as error:
        found, problem = [], error
    for family, kind, protocol, _, target in found:
        sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
        try:
            sock.connect(target)
        except OSError as error:
            sock.close()
            problem = error
            continue
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        return _wrap(sock, host, tls) if tls else sock
    raise ConnectError(f"Cannot connect to the Docker daemon at {address}. Is the docker daemon running?", missing=True) from problem


def split_host(text: str, default_port: int) -> tuple[str, int]:
    """``host:port``, ``[v6]:port`` or ``host``.  Raises ConnectError for a bad port."""
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if port and not port.isdecimal():
        raise ConnectError(f"unable to parse docker host `{text}`: invalid port")
    return host or "127.0.0.1", int(port or default_port)


def _wrap(sock: _socket.socket, host: str, tls: Tls) -> _socket.socket:
    import socket
    import ssl

    context = ssl.create_default_context(cafile=tls.ca) if tls.verify else ssl._create_unverified_context()
    try:
        for path in tls.authorities:
            context.load_verify_locations(path)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        return context.wrap_socket(socket.socket(fileno=sock.detach()), server_hostname=host)
    except OSError as error:
        raise ConnectError(f"error during connect: {error}") from error


class Connection:
    """One connection, used for one request at a time and again when the answer was read to its end."""

    __slots__ = ("_data", "_host", "_position", "socket", "used")

    def __init__(self, sock: _socket.socket, host: str) -> None:
        self.socket = sock
        self.used = 0
        self._host = host
        self._data = b""
        self._position = 0

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | Iterable[bytes | memoryview] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Response:
        """Send one request and read the head of its answer.  A body that is not bytes is sent chunked, as it comes.

        ``meanwhile`` is called between the two, while the peer is at work.
        """
        self.send(method, path, headers, body)
        if meanwhile is not None:
            meanwhile()
        return self.receive(method)

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | Iterable[bytes | memoryview] | None = None
    ) -> None:
        """The first half of ``request``: an answer must be received before the next one is sent."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", "User-Agent: Wherry-Client/0.1 (linux)"]
        if headers:
            lines += [f"{name}: {value}" for name, value in headers.items()]
        fixed = body if isinstance(body, bytes) else b""
        if body is None:
            if method not in ("GET", "HEAD"):
                lines.append("Content-Length: 0")
        elif isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        else:
            lines.append("Transfer-Encoding: chunked")
        try:
            self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + fixed)
            if body is not None and not isinstance(body, bytes):
                self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the peer may have answered before it stopped reading: the answer, or its absence, tells
        self.used += 1

    def _send_chunks(self, body: Iterable[bytes | memoryview]) -> None:
        for piece in body:
            if not piece:
                continue
            head = b"%x\r\n" % len(piece)
            if len(piece) < 1 << 15 or type(self.socket) is not _socket.socket:
                self.socket.sendall(b"%b%b\r\n" % (head, bytes(piece)))
                continue
            # In one call: the peer would wake for two bytes as it does for a whole piece.
            sent = self.socket.sendmsg((head, piece, b"\r\n"))
            for part in (head, piece, b"\r\n"):
                if sent < len(part):
                    self.socket.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))
        self.socket.sendall(b"0\r\n\r\n")

    def receive(self, method: str) -> Response:
        """The second half: the head of the answer."""
        while True:
            end = self._data.find(b"\r\n\r\n", self._position)
            if end >= 0:
                head = self._data[self._position : end].decode("latin-1").split("\r\n")
                self._position = end + 4
                status, headers = _parse_head(head)
                if status == 100:
                    continue
                return Response(self, method, status, headers)
            if len(self._data) - self._position > MAX_HEAD:
                raise ProtocolError("the answer's head is too long")
            if not self.fill():
                if self._data:
                    raise ProtocolError("the connection was closed within the head of an answer")
                raise ClosedEarly("the connection was closed without an answer")

    def fill(self) -> bool:
        """Receive more into the buffer; False at the end."""
        try:
            more = self.socket.recv(RECEIVE)
        except ConnectionResetError:
            more = b""
        if self._position == len(self._data):
            self._data = more
        else:
            self._data = self._data[self._position :] + more
        self._position = 0
        return bool(more)

    def take(self, limit: int) -> bytes:
        """Between one and ``limit`` bytes; empty at the end."""
        if self._position == len(self._data) and not self.fill():
            return b""
        start = self._position
        self._position = min(len(self._data), start + limit)
        return self._data if start == 0 and self._position == len(self._data) else self._data[start : self._position]

    def line(self) -> bytes:
        """Up to and without the next CRLF."""
        while (end := self._data.find(b"\r\n", self._position)) < 0:
            if len(self._data) - self._position > MAX_HEAD or not self.fill():
                raise ProtocolError("the connection was closed within a chunked answer")
        found = self._data[self._position : end]
        self._position = end + 2
        return found

    def release(self) -> tuple[_socket.socket, bytes]:
        """The socket and what was received beyond the head, for a taken-over connection."""
        rest = self._data[self._position :]
        self._data, self._position = b"", 0
        return self.socket, rest

    def close(self) -> None:
        self.socket.close()


def _parse_head(lines: list[str]) -> tuple[int, dict[str, str]]:
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ProtocolError(f"not an HTTP answer: {lines[0][:80]!r}")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(words[1]), headers


class Response:
    """The answer's head, and its body as it is read.  Iterate for pieces; ``read`` for all."""

    __slots__ = ("_chunked", "_connection", "_left", "done", "headers", "keep", "status")

    def __init__(self, connection: Connection, method: str, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        self._left: int | None = None
        if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
            self._left, self._chunked = 0, False
        elif self._chunked:
            self._left = 0
        elif length is not None:
            self._left = int(length)
        self.keep = headers.get("connection", "").lower() != "close" and (self._chunked or self._left is not None)
        self.done = not self._chunked and self._left == 0

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    def piece(self, limit: int = RECEIVE) -> bytes:
        """Some bytes as soon as there are any; empty at the end.  Raises ProtocolError when it ends too early."""
        if self.done:
            return b""
        if self._chunked:
            return self._chunk_piece(limit)
        found = self._connection.take(limit if self._left is None else min(limit, self._left))
        if not found:
            self.done = True
            if self._left:
                raise ProtocolError(f"the answer ended {self._left} bytes early")
        elif self._left is not None:
            self._left -= len(found)
            self.done = self._left == 0
        return found

    def _chunk_piece(self, limit: int) -> bytes:
        connection = self._connection
        if not self._left:
            size, _, extension = connection.line().partition(b";")
            try:
                if extension.startswith(b"error="):
                    raise BrokenOff(jsontext.parse(extension[6:]))
                self._left = int(size, 16)
            except ValueError:
                raise ProtocolError("bad chunk length") from None
            if self._left == 0:
                while connection.line():
                    pass
                self.done = True
                return b""
        found = connection.take(min(limit, self._left))
        if not found:
            raise ProtocolError("the connection was closed within a chunked answer")
        self._left -= len(found)
        if self._left == 0:
            connection.line()
        return found

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.piece():
            yield piece

    def read(self) -> bytes:
        return b"".join(self)

    def copy_to(self, descriptor: int) -> int:
        """Write the whole body to ``descriptor``; how many bytes it was."""
        total = 0
        for piece in self:
            view = memoryview(piece)
            total += len(view)
            while view:
                view = view[os.write(descriptor, view) :]
        return total

    def lines(self) -> Iterator[bytes]:
        """The body line by line, without line ends, as they arrive."""
        rest = b""
        for piece in self:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.rstrip(b"\r")
        if rest:
            yield rest

    def take_over(self) -> tuple[_socket.socket, bytes]:
        """Make the connection the caller's: its socket, and bytes of the stream that were already received."""
        self.done, self.keep = True, False
        return self._connection.release()

    @property
    def connection(self) -> Connection:
        return self._connection

    def close(self) -> None:
        self._connection.close()
