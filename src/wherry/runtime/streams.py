"""What a process reads and writes, between its pipes or its terminal, its log, and the clients attached to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.kernel import terminal
from wherry.runtime.client import Client, detach_sequence
from wherry.runtime.eventloop import IN, OUT, EventLoop
from wherry.runtime.logdriver import Log, open_log

_READ_BYTES = 64 << 10
_PIPE_BYTES = 1 << 20
_ENOUGH_FOR_MORE_BYTES = 32 << 10  # so full a pipe is worth a larger one
_STDIN_BUFFER_BYTES = 64 << 10
_F_SETPIPE_SZ = 1031
_NAMES = ("stdout", "stderr")


class Streams:
    """Of one process.  While a client is behind, nothing more is read: then the process waits, and not our memory grows."""

    def __init__(self, loop: EventLoop, message: Mapping[str, Any]) -> None:
        """``message``: the launch's or the exec's."""
        self._loop = loop
        self._message = message
        self._outputs: dict[int, str] = {}  # readable descriptor -> stdout, stderr
        self._stdin = -1
        self._stdin_pending = b""
        self._stdin_closing = False
        self._master = -1
        self._log: Log | None = None
        self._clients: list[Client] = []
        self.paused = False  # a client is behind

    # -- their making

    def make_stdin(self) -> int:
        """The process's end of its standard input, -1 for none; ours is kept."""
        if self._message["terminal"] or not self._message.get("open_stdin"):
            return -1
        theirs, self._stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stdin, False)
        return theirs

    def make_stdio(self, stdin: int) -> tuple[int, ...]:
        """The process's three descriptors, ``stdin`` among them, none with a terminal; our ends are kept."""
        if self._message["terminal"]:
            return ()
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in _NAMES]
        self.take_outputs([readable for readable, _ in pipes])
        return (stdin, *(writable for _, writable in pipes))

    def take_outputs(self, fds: Sequence[int]) -> None:
        """Where its stdout and stderr can be read, which are of no use when it has a terminal."""
        for fd, name in zip(fds, _NAMES, strict=True):
            if self._message["terminal"]:
                os.close(fd)
            else:
                self._take_output(fd, name)

    def take_terminal(self, master: int) -> None:
        self._stdin = self._master = master
        self._take_output(master, "stdout")

    def keep_log(self, target: Mapping[str, Any]) -> None:
        self._log = open_log(target, self._loop)

    def attach(self, fd: int, attachment: Mapping[str, Any]) -> None:
        """Serve a client, whose socket becomes ours."""
        keys = detach_sequence(attachment["detach_keys"]) if self._message["terminal"] else b""
        client = Client(fd, attachment, keys, self._loop, self._on_client_data)
        self._clients.append(client)
        if attachment["leftover"]:
            client.receive(bytes.fromhex(attachment["leftover"]))

    def resize(self, *, height: int, width: int) -> None:
        if self._master >= 0:
            with contextlib.suppress(OSError):
                terminal.set_size(self._master, height=height, width=width)

    def _take_output(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = name
        if not self.paused:
            self._loop.watch(fd, IN, self._on_output)

    # -- between two turns of the loop

    @property
    def is_open(self) -> bool:
        """Whether there is output to come."""
        return bool(self._outputs)

    @property
    def has_clients(self) -> bool:
        return bool(self._clients)

    def settle(self) -> list[Client]:
        """Go on reading or stop, and part from clients that left.  Returns those who did by their keys."""
        detached = [client for client in self._clients if client.detached]
        self._clients = [client for client in self._clients if not client.closed]
        behind = any(client.pending for client in self._clients)
        if behind != self.paused:
            self.paused = behind
            self._refresh()
        return detached

    def _pause(self) -> None:
        self.paused = True
        self._refresh()

    def _refresh(self) -> None:
        """Watch what is to be read or written; what is not is left alone, or its end would be told of again and again."""
        for fd in self._outputs:
            events = (0 if self.paused else IN) | (OUT if fd == self._stdin and self._stdin_pending else 0)
            if events:
                self._loop.watch(fd, events, self._on_output)
            else:
                self._loop.unwatch(fd)

    # -- output

    def read_all(self) -> None:
        """Pass on what there is of each output."""
        for fd in list(self._outputs):
            if not self.paused and fd in self._outputs:
                self._read(fd)

    def _on_output(self, events: int) -> None:
        self.read_all()
        if events & OUT and self._stdin == self._master and self._stdin_pending:
            self._flush_stdin()

    def _read(self, fd: int) -> None:
        name = self._outputs[fd]
        readers = [client for client in self._clients if client.wants(name)]
        try:
            if self._log is None and len(readers) == 1 and fd != self._master and self._splice(fd, name, readers[0]):
                return
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process closed the terminal
            data = b""
        if not data:
            self._close_output(fd)
            return
        if self._log is not None:
            self._log.write(name, data, time.time_ns())
        for client in readers:
            client.write(name, data)
            if client.pending:
                self._pause()

    def _splice(self, fd: int, name: str, client: Client) -> bool:
        """Move output from the pipe to the only client inside the kernel.  False when that is not possible now."""
        available = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        if not available:
            return False
        if available >= _ENOUGH_FOR_MORE_BYTES:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
        client.splice(name, fd, available)
        if client.pending:
            self._pause()
        return True

    def _close_output(self, fd: int) -> None:
        self._loop.unwatch(fd)
        del self._outputs[fd]
        if fd == self._master:
            self._stdin = self._master = -1
        os.close(fd)

    # -- input

    def _on_client_data(self, client: Client, data: bytes) -> None:
        """``data`` from a client's stdin; empty at its end, which is the program's too, or else leaves the client nothing to stay for."""
        closes = not self._message["terminal"] and (self._message.get("stdin_once") or self._message["op"] == "execute")
        if not data and not closes:
            client.finish()
        if self._stdin < 0 or self._stdin_closing:
            return
        self._stdin_pending += data
        self._stdin_closing = not data and closes
        self._flush_stdin()

    def _flush_stdin(self) -> None:
        try:
            while self._stdin_pending:
                self._stdin_pending = self._stdin_pending[os.write(self._stdin, self._stdin_pending) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._stdin_pending, self._stdin_closing = b"", self._stdin != self._master
        if self._stdin == self._master:
            self._refresh()
        elif self._stdin_pending:
            self._loop.watch(self._stdin, OUT, lambda _: self._flush_stdin())
        elif self._stdin_closing:
            self.end_stdin()
        else:
            self._loop.unwatch(self._stdin)
        full = len(self._stdin_pending) > _STDIN_BUFFER_BYTES
        for client in self._clients:
            client.hold_input(full)

    def end_stdin(self) -> None:
        """The process shall read no more; a terminal stays."""
        if self._stdin >= 0 and self._stdin != self._master:
            self._loop.unwatch(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    # -- their end

    def end_outputs(self) -> None:
        """Whoever has them yet is heard no more, and the log is complete."""
        for fd in list(self._outputs):
            self._close_output(fd)
        if self._log is not None:
            self._log.finish(time.time_ns())
            self._log = None

    def finish_clients(self) -> None:
        """Let them go as soon as they have all output."""
        for client in self._clients:
            client.finish()

    def end_clients(self, *, gone_on_with: bool) -> None:
        """There was no process; ``gone_on_with``: by the daemon, which has something to tell them."""
        for client in self._clients:
            if gone_on_with:
                client.let_go()
            else:
                client.close()
