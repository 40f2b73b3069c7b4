"""Published ports that the kernel does not forward: the monitor accepts on the daemon's sockets and relays to the container."""

from __future__ import annotations

import contextlib
import errno
import functools
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_BUFFER_BYTES = 256 << 10
_CHUNK_BYTES = 64 << 10
_UDP_CLIENTS = 1024

Watch = Callable[[int, int, Callable[[int], None]], None]
Unwatch = Callable[[int], None]


class Relay:
    """All forwards of one container.  ``watch(fd, events, handler)`` and ``unwatch(fd)`` are the monitor's loop."""

    def __init__(self, watch: Watch, unwatch: Unwatch, fds: Sequence[int], forwards: Sequence[Mapping[str, Any]]) -> None:
        self._watch, self._unwatch = watch, unwatch
        self._sockets: list[socket.socket] = []
        self._flows: dict[int, _UdpFlow] = {}
        for fd, forward in zip(fds, forwards, strict=True):
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            self._sockets.append(listener)
            target = (forward["target_ip"], forward["target_port"])
            if forward["protocol"] == "tcp":
                self._watch(fd, _IN, functools.partial(self._accept, listener, target))
            elif forward["protocol"] == "udp":  # SCTP is held and not relayed
                flow = _UdpFlow(watch, unwatch, listener, target)
                self._flows[fd] = flow
                self._watch(fd, _IN, flow.on_listener)

    def close(self) -> None:
        """Give the ports back; connections end with the container."""
        for flow in self._flows.values():
            flow.close()
        for listener in self._sockets:
            self._unwatch(listener.fileno())
            listener.close()
        self._sockets.clear()

    def _accept(self, listener: socket.socket, target: tuple[str, int], _events: int) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        client.setblocking(False)
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        backend = socket.socket(family, socket.SOCK_STREAM)
        backend.setblocking(False)
        code = backend.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            client.close()
            backend.close()
            return
        _Connection(self._watch, self._unwatch, client, backend)


class _Connection:
    """Two sockets, each end's bytes to the other, half-closes kept."""

    def __init__(self, watch: Watch, unwatch: Unwatch, client: socket.socket, backend: socket.socket) -> None:
        self._watch, self._unwatch = watch, unwatch
        self._ends = (client, backend)
        self._buffers = [b"", b""]  # waiting to be written to that end
        self._finished = [False, False]  # that end sends no more
        self._shut = [False, False]
        self._connected = False
        self._update()

    def _update(self) -> None:
        for side, end in enumerate(self._ends):
            readable = self._connected and not self._finished[side] and len(self._buffers[1 - side]) < _BUFFER_BYTES
            writable = bool(self._buffers[side]) or (side == 1 and not self._connected)
            handler: Callable[[int], None] = self._on_backend if side else self._on_client
            if readable or writable:
                self._watch(end.fileno(), (_IN if readable else 0) | (_OUT if writable else 0), handler)
            else:
                self._unwatch(end.fileno())  # a hang-up would be told of again and again

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
            if events & (_IN | select.EPOLLHUP) and self._connected and not self._finished[side]:
                data = self._ends[side].recv(_CHUNK_BYTES)
                self._finished[side] = not data
                self._buffers[1 - side] += data
            for one in (0, 1):
                if self._buffers[one] and self._connected:
                    sent = self._ends[one].send(self._buffers[one], socket.MSG_NOSIGNAL)
                    self._buffers[one] = self._buffers[one][sent:]
                if self._finished[1 - one] and not self._buffers[one] and not self._shut[one]:
                    self._shut[one] = True
                    with contextlib.suppress(OSError):
                        self._ends[one].shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        if all(self._shut) or (events & select.EPOLLERR):
            self._close()
        else:
            self._update()

    def _close(self) -> None:
        for end in self._ends:
            self._unwatch(end.fileno())
            end.close()


class _UdpFlow:
    """Datagrams of one published port: one socket to the container per client address, the oldest dropped past a limit."""

    def __init__(self, watch: Watch, unwatch: Unwatch, listener: socket.socket, target: tuple[str, int]) -> None:
        self._watch, self._unwatch = watch, unwatch
        self._listener, self._target = listener, target
        self._backends: dict[Any, socket.socket] = {}

    def on_listener(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            data, address = self._listener.recvfrom(65535)
            self._backend(address).send(data)

    def close(self) -> None:
        for backend in self._backends.values():
            self._unwatch(backend.fileno())
            backend.close()
        self._backends.clear()

    def _backend(self, address: Any) -> socket.socket:
        if address in self._backends:
            return self._backends[address]
        if len(self._backends) >= _UDP_CLIENTS:
            oldest = self._backends.pop(next(iter(self._backends)))
            self._unwatch(oldest.fileno())
            oldest.close()
        backend = socket.socket(socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET, socket.SOCK_DGRAM)
        backend.setblocking(False)
        backend.connect(self._target)
        self._backends[address] = backend

        def answer(_events: int) -> None:
            with contextlib.suppress(OSError):
                self._listener.sendto(backend.recv(65535), address)

        self._watch(backend.fileno(), _IN, answer)
        return backend
