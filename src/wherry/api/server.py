"""Listening sockets, and what happens to every request before and after its handler."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import ipaddress
import logging
import os
import platform as machine
import posixpath
import re
import resource
import socket
import stat
from collections.abc import Mapping
from importlib.metadata import version as installed_version

from wherry.api import websocket
from wherry.api.connection import HEAD_TIMEOUT_S, BodyReader, ClientGone, Connection
from wherry.api.exchange import TEXT, Request, Response, failure
from wherry.api.failures import explain
from wherry.api.ports import Operations
from wherry.api.routes import match
from wherry.api.wire import Head, Malformed
from wherry.errors import InvalidRequest, NotSupported

API_VERSION = (1, 51)
MIN_API_VERSION = (1, 24)
BACKLOG = 512
GROUP = "docker"

_VERSIONED = re.compile(r"/v([0-9]{1,4})\.([0-9]{1,4})(/.*)", re.DOTALL)

log = logging.getLogger(__name__)


class Server:
    """Serves ``engine`` on every address added; its connections are tasks of ``tasks``.

    Example::

        async with asyncio.TaskGroup() as tasks:
            server = Server(engine, tasks)
            await server.listen("unix:///run/wherry/wherry.sock")
            ...
            await server.close()
    """

    def __init__(
        self, engine: Operations, tasks: asyncio.TaskGroup, *, head_timeout_s: float = HEAD_TIMEOUT_S, connections: int | None = None
    ) -> None:
        """``connections``: at a time; who comes when there are as many is turned away.  By default half of our descriptors' number."""
        self._head_timeout_s = head_timeout_s
        self._most = connections or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._engine = engine
        self._tasks = tasks
        self._listeners: list[asyncio.Server] = []
        self._paths: list[tuple[str, int]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._headers = {
            "Api-Version": _dotted(API_VERSION),
            "Docker-Experimental": "false",
            "Ostype": machine.system().lower(),
            "Server": f"Wherry/{installed_version('wherry')} ({machine.system().lower()})",
        }

    async def listen(self, address: str) -> None:
        """``unix://PATH`` or, on the loopback only, ``tcp://IP:PORT``.  Raises NotSupported, OSError."""
        scheme, _, rest = address.partition("://")
        if scheme == "unix":
            sock = bind_unix(rest)
            self._paths.append((rest, os.stat(rest).st_ino))
            guard = False
        elif scheme == "tcp":
            sock = bind_loopback(rest)
            guard = True
        else:
            raise NotSupported(f"cannot listen on {address}: give unix://PATH or tcp://IP:PORT")
        await self.serve(sock, guard_host=guard)

    async def serve(self, sock: socket.socket, *, guard_host: bool = False) -> None:
        """Serve a listening socket.  ``guard_host``: refuse requests that name another host (a browser led astray)."""
        loop = asyncio.get_running_loop()

        async def converse(connection: Connection) -> None:
            task = asyncio.current_task()
            assert task is not None
            if len(self._connections) >= self._most:  # the containers' own need descriptors too
                return
            self._connections.add(task)
            try:
                await self._converse(connection, guard_host=guard_host)
            finally:
                self._connections.discard(task)

        def make() -> Connection:
            return Connection(converse, self._tasks, head_timeout_s=self._head_timeout_s)

        if sock.family == socket.AF_UNIX:
            listener = await loop.create_unix_server(make, sock=sock, backlog=BACKLOG)
        else:
            listener = await loop.create_server(make, sock=sock, backlog=BACKLOG)
        self._listeners.append(listener)

    async def close(self) -> None:
        """Stop listening, remove our socket files, end every connection."""
        for listener in self._listeners:
            listener.close()
        for path, inode in self._paths:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:  # not one that a newer daemon has put there
                    os.unlink(path)
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _converse(self, connection: Connection, *, guard_host: bool) -> None:
        """One connection, request after request."""
        while True:
            try:
                head = await connection.read_head()
            except Malformed as error:
                await self._refuse(connection, error)
                return
            if head is None or not await self._serve_one(connection, head, guard_host=guard_host):
                return

    async def _serve_one(self, connection: Connection, head: Head, *, guard_host: bool) -> bool:
        """Answer one request; False when the connection ends with it."""
        body = BodyReader(connection, head)
        request = Request(connection, head, version=API_VERSION, groups={}, headers=self._headers, body=body)
        try:
            response = await self._answer(request, connection, guard_host=guard_host)
            connection.set_cancellable(False)
            if response is not None:
                await request.respond(response)
        except ClientGone:
            return False
        except Exception as error:  # the edge: whatever happened, the client gets a status
            connection.set_cancellable(False)
            if request.taken:
                raise
            status, message = explain(error)
            if request.started:
                await request.break_off(message)
                return False
            await request.respond(failure(status, message))
            if isinstance(error, Malformed):
                return False
        if request.taken:
            return False
        return (body.finished or await body.discard()) and head.keep_alive

    async def _answer(self, request: Request, connection: Connection, *, guard_host: bool) -> Response | None:
        head = request.head
        if "origin" in head.headers and not _is_own_websocket(head.headers):
            return failure(403, "requests from web pages are not allowed")
        if guard_host and not _is_loopback(head.headers.get("host", "")):
            return failure(403, "this host name is not served here")
        path, refusal = self._versioned(request)
        if refusal is not None:
            return refusal
        if (clean := clean_path(path)) != path:
            prefix = head.path[: len(head.path) - len(path)]
            return Response(status=301, headers={"Location": prefix + clean}, bare=True)
        found = match(head.method, path)
        if found is None:
            return failure(404, "page not found", bare=True)
        route, request.groups = found
        connection.set_cancellable(route.cancellable)
        return await route.handler(self._engine, request)

    def _versioned(self, request: Request) -> tuple[str, Response | None]:
        """The path without its version, which the request remembers; or why that version is not spoken."""
        found = _VERSIONED.fullmatch(request.head.path)
        if found is None:
            return request.head.path, None
        asked = int(found[1]), int(found[2])
        if asked < MIN_API_VERSION:
            text = (
                f"client version {_dotted(asked)} is too old. Minimum supported API version is {_dotted(MIN_API_VERSION)}, "
                "please upgrade your client to a newer version\n"
            )
            return "", Response(status=400, body=text.encode(), headers={"Content-Type": TEXT, "X-Content-Type-Options": "nosniff"})
        if asked > API_VERSION:
            text = f"client version {_dotted(asked)} is too new. Maximum supported API version is {_dotted(API_VERSION)}"
            return "", failure(400, text)
        request.version = asked
        return found[3], None

    async def _refuse(self, connection: Connection, error: Malformed) -> None:
        head = Head(method="GET", path="/", query="", minor=1, headers={"connection": "close"}, length=0)
        request = Request(connection, head, version=API_VERSION, groups={}, headers={"Connection": "close"})
        await request.respond(failure(error.status, str(error)))


def _is_own_websocket(headers: Mapping[str, str]) -> bool:
    """Whether a request with an Origin is for a WebSocket, where every client sends one, and comes from no other host's page.

    Without the host check of ``guard_host`` a page could still name itself as we are called.  Source: RFC 6454, RFC 6455 10.2.
    """
    authority = headers["origin"].partition("://")[2]
    return websocket.asked_for(headers) and authority == headers.get("host")


def bind_unix(path: str) -> socket.socket:
    """A listening socket at ``path``: mode 0660 for the docker group where there is one, else 0600.

    A socket file that nobody listens on any more is replaced.  Raises FileExistsError when something else is there or someone listens.
    """
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        former = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(former)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
            os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_loopback(address: str) -> socket.socket:
    """A listening TCP socket.  Raises NotSupported for an address others could reach: there, only TLS would do."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise InvalidRequest(f"invalid address tcp://{address}: give tcp://IP:PORT") from None
    if not ip.is_loopback:
        raise NotSupported(f"tcp://{address} could be reached by others: without TLS only the loopback is served")
    return socket.create_server((str(ip), number), family=socket.AF_INET6 if ip.version == 6 else socket.AF_INET, backlog=BACKLOG)


def clean_path(path: str) -> str:
    """``path`` without empty, ``.`` and ``..`` parts, as Go's router wants it; a final slash stays."""
    clean = posixpath.normpath(path) if path else "/"
    if clean.startswith("//"):
        clean = clean[1:]
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _clear_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise FileExistsError(f"a daemon already listens on {path}")


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
