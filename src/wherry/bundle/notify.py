"""A program in a container tells systemd that it is ready: through a socket of ours, since systemd's own is not in there.

Whoever has ``NOTIFY_SOCKET`` gets what the program says about its state, and which process is the service: never what the program claims
of that. Source: sd_notify(3); paths and order as in runc.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Mapping
from typing import Any

from wherry.bundle.states import Place

VARIABLE = "NOTIFY_SOCKET"
_INSIDE = "/run/notify"
_NAME = "notify.sock"
_PASSED = (b"READY=", b"STATUS=", b"ERRNO=", b"RELOADING=", b"STOPPING=", b"MONOTONIC_USEC=", b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=")
_MOST_BYTES = 4096


def host_socket() -> str:
    """Where our caller wants to be told, "" for nowhere."""
    return os.environ.get(VARIABLE, "")


def prepare(place: Place, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the directory in which the socket will be."""
    os.mkdir(place.notify, 0o755)
    mount = {"destination": _INSIDE, "source": place.notify, "options": ["bind", "nosuid", "noexec", "nodev", "ro"]}
    process = config["process"]
    environment = [*(process.get("env") or ()), f"{VARIABLE}={_INSIDE}/{_NAME}"]
    return {**config, "mounts": [*(config.get("mounts") or ()), mount], "process": {**process, "env": environment}}


class Relay:
    """From the container's socket, there before its program runs, to the host's.  For a ``with``."""

    def __init__(self, place: Place, host: str) -> None:
        """``host``: a path, or an abstract address that begins with @.  Raises OSError when nobody listens there."""
        self._host = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._host.connect(f"\0{host[1:]}" if host.startswith("@") else host)
            directory = os.open(place.notify, os.O_PATH | os.O_CLOEXEC)  # the path may be longer than an address takes
            try:
                self._own.bind(f"/proc/self/fd/{directory}/{_NAME}")
                os.chmod(_NAME, 0o777, dir_fd=directory)
            finally:
                os.close(directory)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._host.close()
        self._own.close()

    def fileno(self) -> int:
        """Readable when the program has said something."""
        return self._own.fileno()

    def pass_on(self, main_pid: int) -> bool:
        """One message, if there is one; whether it says that the service is ready, whose process is ``main_pid`` then."""
        try:
            said = self._own.recv(_MOST_BYTES)
        except BlockingIOError:
            return False
        lines = [line for line in said.split(b"\n") if line.startswith(_PASSED)]
        ready = any(line == b"READY=1" for line in lines)
        if ready:
            lines.append(b"MAINPID=%d" % main_pid)
        if lines:
            with contextlib.suppress(OSError):  # who wanted to hear it has gone
                self._host.send(b"\n".join(lines))
        return ready

    def await_ready(self, pid: int, pidfd: int) -> None:
        """Until the program is ready or has ended; the service is its process ``pid`` then."""
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        waiting.register(pidfd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll()}
            if self.fileno() in ready and self.pass_on(pid):
                return
            if pidfd in ready and self.fileno() not in ready:
                return
