"""A worker's life: it serves one caller after the other, as long as nothing of one stays with it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import NamedTuple

from wherry.warm.caller import Unlike

READY = b"ready"
ANSWERED = b"answered"
_MOST_CALLERS = 200
_LEAVE_MS = 1000


class Request(NamedTuple):
    """What a caller asks: ``slot`` is the descriptor for the answer, ``rest`` what the script sent beyond."""

    caller: int
    slot: int
    rest: tuple[bytes, ...]


Work = Callable[[Request], tuple[int, bool]]


def live(line: socket.socket, work: Work) -> None:
    """Say when ready, serve whom the server names, and end when something of a caller would stay.

    ``work`` takes the caller's place and does what it asks; the exit code, and whether that left us as we were. It raises Unlike, OSError
    for what the caller does itself. In between the standard descriptors lead nowhere.
    """
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    opened = _descriptors()
    for _ in range(_MOST_CALLERS):
        with contextlib.suppress(BrokenPipeError):
            line.send(READY)
        data, fds, _, _ = socket.recv_fds(line, 256, 1)
        if not fds:
            return
        caller, _, *rest = data.split()
        if not _serve(line, Request(int(caller), fds[0], tuple(rest)), work, null, opened):
            return


def _serve(line: socket.socket, request: Request, work: Work, null: int, opened: set[int]) -> bool:
    """Whether we can serve another."""
    pidfd = os.pidfd_open(request.caller)
    try:
        code, lasting = work(request)
    except (Unlike, OSError):
        line.send(ANSWERED)
        os.write(request.slot, b"python\n")
        return False
    for number in range(3):
        os.dup2(null, number)
    os.chdir("/")
    lasting = lasting and _descriptors() == opened | {request.slot, pidfd} and not _has_children() and _is_alone()
    if not lasting:  # all else is closed before the caller ends, as if it had been the caller's
        kept = sorted((request.slot, line.fileno()))
        for first, last in ((3, kept[0]), (kept[0] + 1, kept[1]), (kept[1] + 1, 1 << 20)):
            os.closerange(first, last)
    with contextlib.suppress(BrokenPipeError):
        line.send(ANSWERED)
        os.write(request.slot, b"ended %d\n" % code)
    if not lasting:
        return False
    os.close(request.slot)
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    left = bool(waiting.poll(_LEAVE_MS))  # one who stays could send signals that are not for the next one's command
    os.close(pidfd)
    return left


def _descriptors() -> set[int]:
    return {number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)}  # the listing's own is closed now


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_alone() -> bool:
    """Whether this process has one thread."""
    return len(os.listdir("/proc/self/task")) == 1


def _has_children() -> bool:
    """Whether some live, after the others were reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
