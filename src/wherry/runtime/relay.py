"""Published ports that the kernel does not forward: the monitor accepts on the daemon's sockets and relays to the container."""

from __future__ import annotations

import contextlib
import errno
import functools
import resource
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wherry.runtime.eventloop import IN, OUT, EventLoop

_CHUNK_BYTES = 64 << 10
_TCP_CLIENTS = 4096  # who comes when there are as many waits: the monitor needs descriptors for its own work
_UDP_CLIENTS = 1024


class Relay:
    """All forwards of one container."""

    def __init__(self, loop: EventLoop, fds: Sequence[int], forwards: Sequence[Mapping[str, Any]]) -> None:
        self._loop = loop
        self._sockets: list[socket.socket] = []
        self._flows: dict[int, _UdpFlow] = {}
        self._listeners: dict[socket.socket, Callable[[int], None]] = {}
        self._count = 0
        self._most = min(_TCP_CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        for fd, forward in zip(fds, forwards, strict=True):
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            self._sockets.append(listener)
            target = (forward["target_ip"], forward["target_port"])
            if forward["protocol"] == "tcp":
                self._listeners[listener] = functools.partial(self._accept, listener, target)
                self._loop.watch(fd, IN, self._listeners[listener])
            elif forward["protocol"] == "udp":  # SCTP is held and not relayed
                flow = _UdpFlow(loop, listener, target)
                self._flows[fd] = flow
                self._loop.watch(fd, IN, flow.on_listener)

    def close(self) -> None:
        """Give the ports back; connections end with the container."""
        for flow in self._flows.values():
            flow.close()
        for listener in self._sockets:
            self._loop.unwatch(listener.fileno())
            listener.close()
        self._sockets.clear()
        self._listeners.clear()

    def _accept(self, listener: socket.socket, target: tuple[str, int], _events: int) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        client.setblocking(False)
        try:
            backend = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            client.close()
            return
        backend.setblocking(False)
        code = backend.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            client.close()
            backend.close()
            return
        self._count += 1
        if self._count == self._most:
            for waiting in self._listeners:
                self._loop.unwatch(waiting.fileno())
        _Connection(self._loop, client, backend, self._ended)

    def _ended(self) -> None:
        self._count -= 1
        if self._count == self._most - 1:
            for listener, accept in self._listeners.items():
                self._loop.watch(listener.fileno(), IN, accept)


class _Connection:
    """Two sockets, each end's bytes to the other, half-closes kept.

    Nothing is held here: what one end cannot take stays with the other, so that no number of deaf ends costs memory.
    """

    def __init__(self, loop: EventLoop, client: socket.socket, backend: socket.socket, on_end: Callable[[], None]) -> None:
        self._loop, self._on_end = loop, on_end
        self._ends = (client, backend)
        self._full = [False, False]  # that end takes no more now
        self._finished = [False, False]  # that end sends no more, and the other was told
        self._connected = False
        self._update()

    def _update(self) -> None:
        for side, end in enumerate(self._ends):
            readable = self._connected and not self._finished[side] and not self._full[1 - side]
            writable = self._full[side] or (side == 1 and not self._connected)
            handler: Callable[[int], None] = self._on_backend if side else self._on_client
            if readable or writable:
                self._loop.watch(end.fileno(), (IN if readable else 0) | (OUT if writable else 0), handler)
            else:
                self._loop.unwatch(end.fileno())  # a hang-up would be told of again and again

    def _on_client(self, events: int) -> None:
        self._on_event(0, events)

    def _on_backend(self, events: int) -> None:
        if not self._connected:
            if self._ends[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._close()
                return
            self._connected = True
        self._on_event(1, events)

    def _on_event(self, side: int, events: int) -> None:
        try:
            if events & OUT:
                self._full[side] = False
                self._pass_on(1 - side)
            if events & (IN | select.EPOLLHUP):
                self._pass_on(side)
        except OSError:
            self._close()
            return
        if all(self._finished) or events & select.EPOLLERR:
            self._close()
        else:
            self._update()

    def _pass_on(self, side: int) -> None:
        """What has come from one end to the other, as much as that takes.  Raises OSError."""
        source, target = self._ends[side], self._ends[1 - side]
        if not self._connected or self._finished[side] or self._full[1 - side]:
            return
        sent = 0
        try:
            data = source.recv(_CHUNK_BYTES, socket.MSG_PEEK)
            if not data:
                self._finished[side] = True
                target.shutdown(socket.SHUT_WR)
                return
            self._full[1 - side] = True
            sent = target.send(data, socket.MSG_NOSIGNAL)
            self._full[1 - side] = sent < len(data)
        except BlockingIOError:
            pass
        if sent:
            source.recv(sent, socket.MSG_TRUNC)  # only now is it taken, and not copied again

    def _close(self) -> None:
        for end in self._ends:
            self._loop.unwatch(end.fileno())
            end.close()
        self._on_end()


class _UdpFlow:
    """Datagrams of one published port: one socket to the container per client address, the oldest dropped past a limit."""

    def __init__(self, loop: EventLoop, listener: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._listener, self._target = listener, target
        self._backends: dict[Any, socket.socket] = {}

    def on_listener(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            data, address = self._listener.recvfrom(65535)
            self._backend(address).send(data)

    def close(self) -> None:
        for backend in self._backends.values():
            self._loop.unwatch(backend.fileno())
            backend.close()
        self._backends.clear()

    def _backend(self, address: Any) -> socket.socket:
        if address in self._backends:
            return self._backends[address]
        if len(self._backends) >= _UDP_CLIENTS:
            oldest = self._backends.pop(next(iter(self._backends)))
            self._loop.unwatch(oldest.fileno())
            oldest.close()
        backend = socket.socket(socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET, socket.SOCK_DGRAM)
        backend.setblocking(False)
        backend.connect(self._target)
        self._backends[address] = backend

        def answer(_events: int) -> None:
            with contextlib.suppress(OSError):
                self._listener.sendto(backend.recv(65535), address)

        self._loop.watch(backend.fileno(), IN, answer)
        return backend
