"""Terminals between a container and whoever runs it: handed over by a socket, or relayed here."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
import termios
import tty
from collections.abc import Iterator, Mapping
from typing import Any

from wherry.bundle.failures import Failure
from wherry.kernel import terminal


def check(process: Mapping[str, Any], console_socket: str, *, detached: bool) -> None:
    """Raises Failure for a terminal that nobody would hold, or a socket for none."""
    if process.get("terminal") and detached and not console_socket:
        raise Failure("cannot allocate tty if wherry-runtime will detach without setting console socket")
    if console_socket and not process.get("terminal"):
        raise Failure("cannot use console socket if wherry-runtime will not detach or allocate tty")


def listen_fds() -> int:
    """How many descriptors systemd passed on, which the program inherits first.  Source: sd_listen_fds(3)."""
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdigit() else 0


def with_listen_fds(process: dict[str, Any], count: int) -> dict[str, Any]:
    """The process told of them, as the first one of its pid namespace."""
    return {**process, "env": [*(process.get("env") or ()), f"LISTEN_FDS={count}", "LISTEN_PID=1"]} if count else process


def hand_over(path: str, fd: int) -> None:
    """Send a descriptor to the unix socket at ``path``, if there is one."""
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
            connection.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        except OSError as error:
            raise Failure(f"console socket {path}: {error.strerror}") from None


def pass_on(master: int, path: str) -> int:
    """Give a terminal's master to whoever listens at ``path``, for good; -1 then. Without a path it stays ours."""
    if not path:
        return master
    hand_over(path, master)
    os.close(master)
    return -1


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Our own terminal passes every key on while the body runs."""
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def initial_size(process: Mapping[str, Any], console_socket: str) -> tuple[int, int]:
    """Height and width that a terminal is made with, before its program can ask: as configured, or ours if we relay it; else zeros."""
    size = process.get("consoleSize")
    if size:
        return size.get("height") or 0, size.get("width") or 0
    return own_size() if process.get("terminal") and not console_socket else (0, 0)


def own_size() -> tuple[int, int]:
    """Height and width of our terminal; zeros if we have none."""
    try:
        height, width = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))[:2]
    except OSError:
        return 0, 0
    return height, width


def copy_size(master: int) -> None:
    """Give the container's terminal the size of ours, if we have one."""
    height, width = own_size()
    if height and width:
        with contextlib.suppress(OSError):
            terminal.set_size(master, height=height, width=width)
