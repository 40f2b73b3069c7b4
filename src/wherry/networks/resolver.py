"""The DNS server at 127.0.0.11 of every container on a user-defined network: one thread, one selector, sockets inside the namespaces.

A thread of its own and not the daemon's loop: a container that floods it with questions delays other questions, never the API, and its own
above all: once it has asked more than it may, its sockets are left alone for a moment, and the kernel drops what is too much.
Names of containers are answered from the ``Directory``; all others go to the upstream servers, from the host's namespace. A question by
UDP is forwarded by UDP, by TCP over TCP; every forwarded question has its own socket, hence its own random port.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from wherry.networks import dns
from wherry.networks.dns import Query
from wherry.networks.names import Directory, View

log = logging.getLogger(__name__)

UPSTREAM_TIMEOUT_S = 4.0
_CLIENT_TIMEOUT_S = 10.0
_MAX_FORWARDED = 1024
_MAX_FORWARDED_EACH = 128
_MAX_CLIENTS_EACH = 32
_MAX_MESSAGE = 65535
_DATAGRAMS_AT_ONCE = 32
RATE_HZ = 2000  # questions and connections of one container, for long: a twentieth of a processor; the kernel keeps some hundred more
BURST = 4000
_REST_S = 0.02

Deliver = Callable[[bytes], None]


@dataclass(slots=True)
class _Served:
    """A container, the sockets it asks, and how much it may ask just now."""

    udp: socket.socket
    tcp: socket.socket
    allowance: float = BURST
    counted_at: float = field(default_factory=time.monotonic)

    def spend(self) -> bool:
        """Count one question; whether there may be more just now."""
        now = time.monotonic()
        self.allowance = min(BURST, self.allowance + (now - self.counted_at) * RATE_HZ) - 1
        self.counted_at = now
        return self.allowance > 0


@dataclass(slots=True)
class _Client:
    """A TCP connection from a container."""

    container_id: str
    connection: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Forwarded:
    """A question on its way to an upstream server."""

    container_id: str
    query: Query
    packet: bytes
    deliver: Deliver
    servers: deque[str]
    by_tcp: bool
    connection: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)


class Resolver:
    """Serves the sockets it is given until they are taken back; ``upstream_port`` is for tests."""

    def __init__(self, directory: Directory, *, upstream_port: int = 53) -> None:
        self._directory = directory
        self._upstream_port = upstream_port
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._commands: deque[Callable[[], None]] = deque()
        self._served: dict[str, _Served] = {}
        self._resting: dict[str, float] = {}  # containers whose sockets are left alone, and until when
        self._forwarded: dict[int, _Forwarded] = {}
        self._connections: dict[int, _Client] = {}
        self._pending: Counter[str] = Counter()
        self._running = True
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, in the caller's network namespace: that is where upstream servers are asked from."""
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._obey)
        self._thread = threading.Thread(target=self._run, name="resolver", daemon=True)
        self._thread.start()

    def serve(self, container_id: str, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer on these bound sockets from now on; the resolver closes them."""
        self._post(lambda: self._begin(container_id, udp, tcp))

    def forget(self, container_id: str) -> None:
        """Close a container's sockets, and return when that is done."""
        done = threading.Event()

        def end() -> None:
            self._end(container_id)
            done.set()

        self._post(end)
        if self._thread is not None:
            done.wait(timeout=5)

    def close(self) -> None:
        """Stop the thread and close everything."""
        if self._thread is None:
            return
        self._post(self._stop)
        self._thread.join(timeout=5)
        self._thread = None
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        if self._thread is not None:
            with suppress(BlockingIOError):  # a full pipe wakes as well
                os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while self._running:
            for key, _ in self._selector.select(self._patience()):
                try:
                    key.data()
                except Exception:  # one bad packet must not end everybody's names
                    log.exception("resolver")
            self._expire()
        for container_id in list(self._served):
            self._end(container_id)
        self._selector.close()

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while self._commands:
            self._commands.popleft()()

    def _stop(self) -> None:
        self._running = False

    def _begin(self, container_id: str, udp: socket.socket, tcp: socket.socket) -> None:
        self._end(container_id)
        self._served[container_id] = _Served(udp, tcp)
        self._listen(container_id)

    def _listen(self, container_id: str) -> None:
        served = self._served[container_id]
        self._selector.register(served.udp, selectors.EVENT_READ, lambda: self._datagrams(container_id, served.udp))
        self._selector.register(served.tcp, selectors.EVENT_READ, lambda: self._accept(container_id, served.tcp))

    def _count(self, container_id: str) -> None:
        """A question has been asked; who has asked too much is not listened to for a moment."""
        served = self._served[container_id]
        if served.spend():
            return
        self._resting[container_id] = time.monotonic() + _REST_S
        for one in (served.udp, served.tcp, *(client.connection for client in self._clients(container_id))):
            self._selector.unregister(one)

    def _clients(self, container_id: str) -> list[_Client]:
        return [one for one in self._connections.values() if one.container_id == container_id]

    def _rouse(self, container_id: str) -> None:
        """Listen to it again, after what its connections have said already."""
        del self._resting[container_id]
        self._listen(container_id)
        for client in self._clients(container_id):
            self._hear(client)
        for client in self._clients(container_id):
            self._questions(client)

    def _end(self, container_id: str) -> None:
        if (served := self._served.pop(container_id, None)) is not None:
            for server in (served.udp, served.tcp):
                self._leave(server)
                server.close()
        self._resting.pop(container_id, None)
        for client in self._clients(container_id):
            self._drop_client(client)
        for forwarded in [one for one in self._forwarded.values() if one.container_id == container_id]:
            self._drop_forwarded(forwarded)
        self._pending.pop(container_id, None)

    def _datagrams(self, container_id: str, udp: socket.socket) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            if container_id in self._resting:
                return
            try:
                packet, sender = udp.recvfrom(_MAX_MESSAGE)
            except OSError:  # nothing left, or the error of an earlier reply
                return

            def deliver(reply: bytes, sender: tuple[str, int] = sender) -> None:
                with suppress(OSError):
                    udp.sendto(reply, sender)

            self._question(container_id, packet, deliver, by_tcp=False)
            self._count(container_id)

    def _question(self, container_id: str, packet: bytes, deliver: Deliver, *, by_tcp: bool) -> None:
        try:
            query = dns.parse_query(packet)
        except ValueError:
            reply = dns.malformed(packet)
            if reply is not None:
                deliver(reply)
            return
        view = self._directory.view(container_id)
        answer = self._answer(query, view) if view is not None else dns.failure(query, dns.SERVER_FAILURE)
        if answer is not None:
            deliver(answer if by_tcp else dns.fit(query, answer))
        elif view is not None:
            self._forward(container_id, query, packet, view, deliver, by_tcp=by_tcp)

    def _answer(self, query: Query, view: View) -> bytes | None:
        """The answer we know, or None for a question that goes upstream."""
        if not query.is_standard:
            return dns.failure(query, dns.NOT_IMPLEMENTED)
        if query.in_class == dns.CLASS_IN:
            if query.kind == dns.TYPE_PTR:
                address = dns.reverse_address(query.name)
                name = self._directory.reverse(view, address) if address is not None else None
                if name is not None:
                    with suppress(ValueError):  # a network may have a name that is no DNS name
                        return dns.pointer(query, name)
            else:
                found = self._directory.lookup(view, query.name)
                if found:
                    random.shuffle(found)
                    return dns.addresses(query, found) if query.kind in (dns.TYPE_A, dns.TYPE_ANY) else dns.empty(query)
        return None if view.upstream else dns.failure(query, dns.REFUSED)

    def _forward(self, container_id: str, query: Query, packet: bytes, view: View, deliver: Deliver, *, by_tcp: bool) -> None:
        if len(self._forwarded) >= _MAX_FORWARDED or self._pending[container_id] >= _MAX_FORWARDED_EACH:
            deliver(dns.failure(query, dns.SERVER_FAILURE))
            return
        self._try_next(container_id, query, packet, deliver, deque(view.upstream), by_tcp=by_tcp)

    def _try_next(self, container_id: str, query: Query, packet: bytes, deliver: Deliver, servers: deque[str], *, by_tcp: bool) -> None:
        while servers:
            server = servers.popleft()
            try:
                connection = self._connect(server, packet, by_tcp=by_tcp)
            except OSError as error:
                log.debug("resolver: %s: %s", server, error)
                continue
            deadline = time.monotonic() + UPSTREAM_TIMEOUT_S
            one = _Forwarded(container_id, query, packet, deliver, servers, by_tcp, connection, deadline)
            self._forwarded[connection.fileno()] = one
            self._pending[container_id] += 1
            self._await(one)
            return
        deliver(dns.failure(query, dns.SERVER_FAILURE))

    def _await(self, one: _Forwarded) -> None:
        if one.by_tcp:
            self._selector.register(one.connection, selectors.EVENT_WRITE, lambda: self._connected(one))
        else:
            self._selector.register(one.connection, selectors.EVENT_READ, lambda: self._replied(one))

    def _connect(self, server: str, packet: bytes, *, by_tcp: bool) -> socket.socket:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        connection = socket.socket(family, (socket.SOCK_STREAM if by_tcp else socket.SOCK_DGRAM) | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.connect((server, self._upstream_port))
            if not by_tcp:
                connection.send(packet)
        except OSError:
            connection.close()
            raise
        return connection

    def _connected(self, one: _Forwarded) -> None:
        try:
            one.connection.sendall(struct.pack(">H", len(one.packet)) + one.packet)
        except OSError:
            self._retry(one)
            return
        self._selector.modify(one.connection, selectors.EVENT_READ, lambda: self._replied(one))

    def _replied(self, one: _Forwarded) -> None:
        try:
            data = one.connection.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self._retry(one)
            return
        if not one.by_tcp:
            if dns.answers_to(one.query, data):
                self._finish(one, data)
            return
        if not data:
            self._retry(one)
            return
        one.received += data
        if len(one.received) >= 2 and len(one.received) >= 2 + int.from_bytes(one.received[:2], "big"):
            reply = bytes(one.received[2 : 2 + int.from_bytes(one.received[:2], "big")])
            if dns.answers_to(one.query, reply):
                self._finish(one, reply)
            else:
                self._retry(one)

    def _finish(self, one: _Forwarded, reply: bytes) -> None:
        self._drop_forwarded(one)
        one.deliver(reply if one.by_tcp else dns.fit(one.query, reply))

    def _retry(self, one: _Forwarded) -> None:
        self._drop_forwarded(one)
        self._try_next(one.container_id, one.query, one.packet, one.deliver, one.servers, by_tcp=one.by_tcp)

    def _drop_forwarded(self, one: _Forwarded) -> None:
        self._forwarded.pop(one.connection.fileno(), None)
        self._pending[one.container_id] -= 1
        self._selector.unregister(one.connection)
        one.connection.close()

    def _accept(self, container_id: str, tcp: socket.socket) -> None:
        if container_id in self._resting:
            return
        try:
            connection, _ = tcp.accept()
        except OSError:
            return
        self._count(container_id)
        if len(self._clients(container_id)) >= _MAX_CLIENTS_EACH:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(container_id, connection, time.monotonic() + _CLIENT_TIMEOUT_S)
        self._connections[connection.fileno()] = client
        if container_id not in self._resting:
            self._hear(client)

    def _hear(self, client: _Client) -> None:
        self._selector.register(client.connection, selectors.EVENT_READ, lambda: self._readable(client))

    def _readable(self, client: _Client) -> None:
        if client.container_id in self._resting:
            return
        try:
            data = client.connection.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop_client(client)
            return
        client.received += data
        client.deadline = time.monotonic() + _CLIENT_TIMEOUT_S
        self._questions(client)

    def _questions(self, client: _Client) -> None:
        """What has come whole, as far as it may be asked now."""
        while len(client.received) >= 2 and client.connection.fileno() >= 0 and client.container_id not in self._resting:
            size = int.from_bytes(client.received[:2], "big")
            if len(client.received) < 2 + size:
                return
            packet = bytes(client.received[2 : 2 + size])
            del client.received[: 2 + size]
            self._question(client.container_id, packet, lambda reply: self._reply_by_tcp(client, reply), by_tcp=True)
            self._count(client.container_id)

    def _reply_by_tcp(self, client: _Client, reply: bytes) -> None:
        if client.connection.fileno() < 0:
            return
        try:
            sent = client.connection.send(struct.pack(">H", len(reply)) + reply)
        except OSError:
            sent = -1
        if sent != 2 + len(reply):  # a client that does not read its answers loses the connection
            self._drop_client(client)

    def _drop_client(self, client: _Client) -> None:
        if self._connections.pop(client.connection.fileno(), None) is not None:
            self._leave(client.connection)
            client.connection.close()

    def _leave(self, connection: socket.socket) -> None:
        with suppress(KeyError):  # its container rests
            self._selector.unregister(connection)

    def _patience(self) -> float | None:
        deadlines = [one.deadline for one in self._forwarded.values()] + [one.deadline for one in self._connections.values()]
        deadlines += self._resting.values()
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _expire(self) -> None:
        now = time.monotonic()
        for forwarded in [one for one in self._forwarded.values() if one.deadline <= now]:
            self._retry(forwarded)
        for client in [one for one in self._connections.values() if one.deadline <= now]:
            self._drop_client(client)
        for container_id in [one for one, until in self._resting.items() if until <= now]:
            self._rouse(container_id)
