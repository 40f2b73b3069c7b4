"""A worker's life: it serves one caller after the other, as long as nothing of one stays with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar

from wherry.kernel import controlfiles
from wherry.warm.caller import Unlike

READY = b"ready"
ANSWERED = b"answered"
REFUSED = b"refused"  # answered, too: the caller does it itself
_MOST_CALLERS = 200
_LEAVE_MS = 1000
_SIGNALS = set(signal.Signals)


class Request(NamedTuple):
    """What a caller asks: ``slot`` is the descriptor for the answer, ``rest`` what the script sent beyond."""

    caller: int
    slot: int
    rest: tuple[bytes, ...]


Ready = TypeVar("Ready")
Work = Callable[[Request, Ready], tuple[int, bool]]


class Stays(NamedTuple):
    """What of a worker's own is there before and after a caller: child processes, and descriptors that come and go."""

    children: frozenset[int] = frozenset()
    descriptors: Callable[[], Collection[int]] = tuple


_NOTHING = Stays()


def live(line: socket.socket, prepare: Callable[[], Ready], work: Work[Ready], stays: Stays = _NOTHING) -> None:
    """Say when ready, serve whom the server names, and end when something of a caller would stay.

    ``prepare`` makes before each caller what ``work`` then gets; that takes the caller's place and does what it asks: the exit code, and
    whether it left us as we were. It raises Unlike, OSError for what the caller does itself. In between the standard descriptors lead
    nowhere.
    """
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    opened = _descriptors(stays)
    for _ in range(_MOST_CALLERS):
        ready = prepare()
        _tell(line, READY)
        data, fds, _, _ = socket.recv_fds(line, 256, 1)
        if not fds:
            return
        caller, _, *rest = data.split()
        request = Request(int(caller), fds[0], tuple(rest))
        pidfd = os.pidfd_open(request.caller)
        try:
            code, lasting = work(request, ready)
        except (Unlike, OSError):
            _tell(line, REFUSED)
            os.write(request.slot, b"python\n")
            return
        for number in range(3):
            os.dup2(null, number)
        os.chdir("/")
        lasting = lasting and _children() == stays.children and _has_only(opened | {request.slot, pidfd}, stays) and _is_alone()
        _answer(line, request.slot, code, lasting=lasting)
        if not lasting or not _has_left(pidfd):
            return
        os.close(pidfd)


def _answer(line: socket.socket, slot: int, code: int, *, lasting: bool) -> None:
    if not lasting:  # all else is closed before the caller ends, as if it had been the caller's
        kept = sorted((slot, line.fileno()))
        for first, last in ((3, kept[0]), (kept[0] + 1, kept[1]), (kept[1] + 1, 1 << 20)):
            os.closerange(first, last)
    _tell(line, ANSWERED)
    with contextlib.suppress(BrokenPipeError):
        os.write(slot, b"ended %d\n" % code)
    os.close(slot)


def _tell(line: socket.socket, word: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server is gone; its caller is not
        line.send(word)


def _has_left(pidfd: int) -> bool:
    """Whether the caller is gone, who could send us signals that are not for the next one."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    left = bool(waiting.poll(_LEAVE_MS))
    while signal.sigtimedwait(_SIGNALS, 0) is not None:  # those that are blocked
        pass
    return left


def _descriptors(stays: Stays) -> set[int]:
    return {number for number in _listed() if _is_open(number)}.difference(stays.descriptors())


def _has_only(expected: set[int], stays: Stays) -> bool:
    """Whether these are all that are open."""
    expected = expected.union(stays.descriptors())
    found = _listed()
    return expected <= found and not any(_is_open(number) for number in found - expected)


def _listed() -> set[int]:
    """The open descriptors, and that of the listing, which is closed now."""
    return set(map(int, os.listdir("/proc/self/fd")))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_alone() -> bool:
    """Whether this process has one thread."""
    return len(os.listdir("/proc/self/task")) == 1


def _children() -> frozenset[int]:
    """Those that live, after the others were reaped.  Source: proc(5), /proc/pid/task/tid/children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return frozenset()
    return frozenset(map(int, controlfiles.read(f"/proc/self/task/{os.getpid()}/children").split()))
