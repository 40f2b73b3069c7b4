"""A session with a process in a container: its streams to ours and back, signals, window size, detaching.

One thread, one ``poll``. Output is written in large pieces straight from the receive buffer.
"""

from __future__ import annotations

import _socket
import os
import select

from wherry.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.client.engine import Hijacked

RECEIVE = 1 << 20
RECEIVE_FIRST = 1 << 14
BATCH = 1000  # IOV_MAX is 1024
DETACH_PATIENCE_MS = 1000
MOST_ASKED = 3


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write everything, waiting where the descriptor is non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


class Demultiplexer:
    """Docker's frames (kind, three zeros, big-endian length, payload) to the descriptors of their kinds; others are dropped."""

    __slots__ = ("_head", "_left", "_target", "_targets")

    def __init__(self, stdout: int | None = 1, stderr: int | None = 2) -> None:
        self._targets = {0: stdout, 1: stdout, 2: stderr, 3: stderr}
        self._head = b""
        self._left = 0
        self._target: int | None = None

    def feed(self, view: memoryview) -> None:
        """Pass the payloads in ``view`` on.  Frames may begin and end anywhere."""
        position, end = 0, len(view)
        batch: list[memoryview] = []
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                if self._target is not None:
                    batch.append(view[position : position + taken])
                position += taken
                self._left -= taken
                continue
            missing = 8 - len(self._head)
            head = self._head + bytes(view[position : position + missing])
            position += min(missing, end - position)
            if len(head) < 8:
                self._head = head
                break
            self._head = b""
            self._left = int.from_bytes(head[4:], "big")
            target = self._targets.get(head[0])
            if target != self._target or len(batch) >= BATCH:
                self._flush(batch)
                self._target = target
        self._flush(batch)

    def _flush(self, batch: list[memoryview]) -> None:
        if not batch or self._target is None:
            return
        total = sum(map(len, batch))
        try:
            written = os.writev(self._target, batch)
        except BlockingIOError:
            written = 0
        if written < total:
            for piece in batch:
                if written >= len(piece):
                    written -= len(piece)
                    continue
                write_all(self._target, piece[written:])
                written = 0
        batch.clear()


class Session:
    """Runs until the stream ends or the person detaches.

    ``stdin``: pass our standard input on. ``tty``: the stream is a terminal's. ``resize`` gets rows and columns, now and on change;
    ``forward`` gets numbers of signals to pass on.
    """

    def __init__(
        self,
        stream: Hijacked,
        *,
        stdin: bool,
        tty: bool,
        stdout: bool = True,
        stderr: bool = True,
        keys: bytes = terminal.DEFAULT_KEYS,
        resize: Callable[[int, int], None] | None = None,
        forward: Callable[[int], None] | None = None,
    ) -> None:
        self.detached = False
        self.given_up = False  # by who asked the program to end, again and again
        self._socket = stream.socket
        self._received = stream.received
        self._stdin = stdin
        self._tty = tty
        self._stdout = stdout
        self._demultiplexer = None if tty or stream.raw else Demultiplexer(1 if stdout else None, 2 if stderr else None)
        self._watch = terminal.KeyWatch(keys) if tty and stdin else None
        self._resize = resize if tty else None
        self._forward = forward
        self._outgoing = memoryview(b"")
        self._asked_to_end = 0
        self._ended = False
        self._buffer = memoryview(bytearray(RECEIVE_FIRST))  # to zero a big one costs half a millisecond, and most output is small

    def run(self) -> None:
        """Pump until the end.  The terminal is as before afterwards."""
        numbers = terminal.FORWARDED if self._forward else (terminal.SIGWINCH,) if self._resize else ()
        with terminal.RawMode(0 if self._tty and self._stdin else -1), terminal.Signals(numbers) as signals:
            self._send_size()
            if self._received:
                self._show(memoryview(self._received))
            self._pump(signals)

    def _pump(self, signals: terminal.Signals) -> None:
        poll = select.poll()
        poll.register(signals.descriptor, select.POLLIN)
        if self._stdin:
            poll.register(0, select.POLLIN)
        sock = self._socket.fileno()
        poll.register(sock, select.POLLIN)
        while not self._ended:
            for descriptor, events in poll.poll(DETACH_PATIENCE_MS if self.detached else None) or [(-1, 0)]:
                if descriptor == sock:
                    if events & select.POLLOUT and self._send():
                        poll.modify(sock, select.POLLIN)
                        if self._stdin:
                            poll.register(0, select.POLLIN)
                    if events & ~select.POLLOUT:
                        self._receive()
                elif descriptor == 0:
                    self._read_input()
                    if self._outgoing:
                        poll.modify(sock, select.POLLIN | select.POLLOUT)
                    if self._outgoing or not self._stdin:
                        poll.unregister(0)
                elif descriptor == signals.descriptor:
                    self._take_signals(signals.pending())
                else:
                    self._ended = True

    def _receive(self) -> None:
        view = self._buffer
        try:
            count = self._socket.recv_into(view)
        except (ConnectionResetError, BrokenPipeError):
            count = 0
        if count:
            self._show(view[:count])
            if count == len(view) < RECEIVE:
                self._buffer = memoryview(bytearray(RECEIVE))
        else:
            self._ended = True

    def _show(self, view: memoryview) -> None:
        if self._demultiplexer is not None:
            self._demultiplexer.feed(view)
        elif self._stdout:
            write_all(1, view)

    def _read_input(self) -> None:
        try:
            typed = os.read(0, 1 << 16)
        except OSError:
            typed = b""
        if not typed:
            self._stdin = False
            if self._watch is not None:  # a terminal in raw mode has no end of input: it has been closed
                self.detached = self._ended = True
            else:
                self._half_close()
            return
        if self._watch is not None and self._watch.seen_in(typed):
            self.detached = True
            self._stdin = False
        self._outgoing = memoryview(typed)
        self._send()

    def _send(self) -> bool:
        """Send what is waiting without blocking: output must flow meanwhile.  True when nothing is left."""
        try:
            sent = self._socket.send(self._outgoing, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except ValueError:  # TLS takes no flags
            sent = self._socket.send(self._outgoing)
        except (BrokenPipeError, ConnectionResetError):
            sent, self._stdin = len(self._outgoing), False
        self._outgoing = self._outgoing[sent:]
        return not self._outgoing

    def _half_close(self) -> None:
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            self._stdin = False  # the other end is gone already

    def _take_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in terminal.ENDING:
                self._asked_to_end += 1
                if self._asked_to_end == MOST_ASKED:  # the program minds none of them, and the person wants the terminal back
                    write_all(2, b"\ngot %d SIGTERM/SIGINTs, forcefully exiting\n" % MOST_ASKED)
                    self.given_up = self._ended = True
                    return
            if number == terminal.SIGWINCH and self._resize is not None:
                self._send_size()
            elif self._forward is not None:
                self._forward(number)

    def _send_size(self) -> None:
        if self._resize is not None and (found := terminal.size(1) or terminal.size(0)):
            self._resize(*found)
