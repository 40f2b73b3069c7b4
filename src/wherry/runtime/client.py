"""A client attached to a container: its socket is read and written by the monitor itself."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from wherry.runtime.eventloop import IN, OUT, EventLoop

_STREAM = {"stdout": 1, "stderr": 2}
_READ_BYTES = 32 << 10
_SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h
_SEND_BUFFER_BYTES = 2 << 20
_MOST_DRAINED_BYTES = 4 << 20
_SPLICE_F = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MORE if hasattr(os, "SPLICE_F_NONBLOCK") else 0


class Client:
    """One attached connection.  ``on_input`` is given its stdin, empty at the end; ``pending`` bytes could not be written yet."""

    def __init__(
        self,
        fd: int,
        attachment: Mapping[str, Any],
        detach_keys: bytes,
        loop: EventLoop,
        on_input: Callable[[Client, bytes], None],
    ) -> None:
        os.set_blocking(fd, False)
        _enlarge(fd)
        self._fd = fd
        self._streams = {name for name in ("stdout", "stderr") if attachment[name]}
        self._multiplexed = attachment["multiplexed"]
        self._reads = bool(attachment["stdin"])
        self._keys = detach_keys
        self._matched = b""
        self._loop, self._on_input = loop, on_input
        self._buffer = b""
        self._spliced = (-1, 0)  # what is left to move from a pipe after the buffer
        self._finishing = False
        self._held = False
        self._ended = False
        self.closed = False
        self.detached = False  # by its keys
        self._update()

    @property
    def pending(self) -> bool:
        """Whether something waits for the client to read."""
        return not self.closed and bool(self._buffer or self._spliced[1])

    def wants(self, stream: str) -> bool:
        return stream in self._streams and not self.closed

    def write(self, stream: str, data: bytes) -> None:
        """Send output now, or keep it for when the client reads."""
        self._buffer += struct.pack(">BxxxI", _STREAM[stream], len(data)) + data if self._multiplexed else data
        self._flush()

    def splice(self, stream: str, pipe_fd: int, length: int) -> None:
        """Send ``length`` bytes that stand in a pipe without copying them."""
        if self._multiplexed:
            self._buffer += struct.pack(">BxxxI", _STREAM[stream], length)
        self._spliced = (pipe_fd, length)
        self._flush()

    def receive(self, data: bytes) -> None:
        """Stdin from the client: look for the detach keys, pass the rest on."""
        if not self._keys:
            self._on_input(self, data)
            return
        out = bytearray()
        for byte in data:
            expected = self._matched + bytes([byte])
            if self._keys.startswith(expected):
                self._matched = expected
                if expected == self._keys:
                    if out:
                        self._on_input(self, bytes(out))
                    self.detached = True
                    self.close()
                    return
                continue
            out += self._matched
            self._matched = b""
            if self._keys.startswith(bytes([byte])):
                self._matched = bytes([byte])
            else:
                out.append(byte)
        if out:
            self._on_input(self, bytes(out))

    def hold_input(self, held: bool) -> None:
        """Stop or go on reading the client's stdin."""
        if held != self._held:
            self._held = held
            self._update()

    def finish(self) -> None:
        """No more output comes: close as soon as what is pending is sent."""
        self._finishing = True
        self._flush()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.unwatch(self._fd)
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as handle:
                handle.shutdown(socket.SHUT_RDWR)  # the daemon's and the API server's duplicates must not keep it open
                self._drain(handle)
            os.close(self._fd)

    def _drain(self, handle: socket.socket) -> None:
        """Take what the client has said and nobody wants: closed with that unread, the connection would end in an error, not in an end."""
        for _ in range(_MOST_DRAINED_BYTES // _READ_BYTES):  # a distant client may go on talking
            if not handle.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                return

    def let_go(self) -> None:
        """Give the connection up as it is: the daemon goes on with it."""
        if not self.closed:
            self.closed = True
            self._loop.unwatch(self._fd)
            os.close(self._fd)

    def _on_event(self, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR) and not (events & IN and self._reads):
            self._lose()
            return
        if events & OUT:
            self._flush()
        if not self.closed and events & IN and self._reads and not self._held:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        if data:
            self.receive(data)
        else:
            self._end_input()
            if not self._streams:
                self.close()
        if not self.closed:
            self._update()

    def _lose(self) -> None:
        """The client is gone."""
        self._end_input()
        self.close()

    def _end_input(self) -> None:
        if self._reads and not self._ended:
            self._ended = True
            self._reads = False
            self._on_input(self, b"")

    def _flush(self) -> None:
        if self.closed:
            return
        try:
            while self._buffer:
                self._buffer = self._buffer[os.write(self._fd, self._buffer) :]
            while self._spliced[1]:
                moved = os.splice(self._spliced[0], self._fd, self._spliced[1], flags=_SPLICE_F)
                if not moved:
                    break
                self._spliced = (self._spliced[0], self._spliced[1] - moved)
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
            return
        if self._finishing and not self.pending:
            self.close()
        else:
            self._update()

    def _update(self) -> None:
        # no EPOLLRDHUP: a client that only ended its input would be told of for ever
        events = (IN if self._reads and not self._held else 0) | (OUT if self.pending else 0)
        if self._held and not events:
            self._loop.unwatch(self._fd)  # or a hang-up would be told of again and again before its last input is taken
        else:
            self._loop.watch(self._fd, events, self._on_event)


def _enlarge(fd: int) -> None:
    """Room for a whole pipe in a local socket, so that container and client work at the same time."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as handle:
        if handle.family == socket.AF_UNIX:
            handle.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)


def detach_sequence(text: str) -> bytes:
    """The bytes of ``ctrl-p,ctrl-q``.  Raises ValueError."""
    found = bytearray()
    for word in filter(None, text.split(",")):
        key = word[5:] if word.startswith("ctrl-") else word
        if len(key) != 1:
            raise ValueError(f"unknown detach key {word!r}")
        if word.startswith("ctrl-"):
            code = ord(key.lower()) - 96 if key.isalpha() else {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}.get(key, -1)
            if not 0 <= code < 32:
                raise ValueError(f"unknown detach key {word!r}")
            found.append(code)
        else:
            found += key.encode()
    return bytes(found)
