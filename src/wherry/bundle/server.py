"""A warm interpreter for ``run``: it forks workers that take a caller's place (`worker`), and goes when nobody has asked for a while.

The other side is the shell script ``wherry-runtime``. Through ``DIRECTORY/server`` it knows this process and, by number, a pipe for
requests and some for answers, which it opens by /proc/PID/fd: what a dead server left behind can mislead nobody. A file named as the slot
reserves a pipe for answers until its request is taken. Only root can reach any of this.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass

from wherry.bundle import worker
from wherry.bundle.failures import Failure
from wherry.kernel import process
from wherry.runtime import channel, rehearsal

NAME = "wherry-oci"
_SLOTS = 16
_FIRST_SLOT = 100
_IDLE_S = 20
_BREATH_MS = 10
_MOST_READY = 3


@dataclass(slots=True)
class _Worker:
    """``credit``: how often it said that it is ready, less how often it was given something; ``fresh`` until then."""

    line: socket.socket
    credit: int = 0
    fresh: bool = True


class Workers:
    """Forked ahead of their callers, so that one is ready while another makes itself ready again."""

    def __init__(self, waiting: select.poll) -> None:
        self._own = worker.world(os.getpid())
        self._waiting = waiting
        self._all: dict[int, _Worker] = {}  # by the descriptor of its line

    @property
    def _ready(self) -> list[_Worker]:
        return [one for one in self._all.values() if one.credit > 0]

    @property
    def lacking(self) -> bool:
        """Whether the next caller would find none that is ready or soon will be."""
        return not any(one.credit > 0 or one.fresh for one in self._all.values())

    def hatch(self) -> _Worker:
        """Fork one."""
        ours, theirs = channel.pair()
        if os.fork():
            theirs.close()
            self._waiting.register(ours, select.POLLIN)
            return self._all.setdefault(ours.fileno(), _Worker(ours))
        try:
            if (own_fd := theirs.fileno()) > 3:
                process.close_range(3, last=own_fd - 1)  # the lock among them: a container may outlive the server
            process.close_range(own_fd + 1)
            worker.live(theirs, self._own)
        finally:
            os._exit(1)

    def attend(self, fd: int) -> None:
        """It says that it is ready, or it is gone."""
        one = self._all[fd]
        with contextlib.suppress(ConnectionResetError):
            if one.line.recv(len(worker.READY)) and len(self._ready) < _MOST_READY:
                one.credit += 1
                return
        self._waiting.unregister(fd)
        self._all.pop(fd).line.close()

    def give(self, request: bytes, slot: int) -> None:
        """Pass a request on, to a new one when none is ready."""
        while True:
            one = next(iter(self._ready), None) or self.hatch()
            one.credit, one.fresh = one.credit - 1, False
            with contextlib.suppress(channel.Closed):  # `attend` will hear of it
                channel.send_encoded(one.line, request, [slot])
                return


def start(directory: str, home: str) -> None:
    """Leave a server behind, unless there is one: it outlives this process and keeps nothing of it open."""
    if _is_served(directory) or os.fork():
        return
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    process.close_range(3)
    os.chdir("/")
    if os.fork() == 0:
        os.execv(f"{home}/python", [f"{home}/python", "-I", "-m", "wherry.bundle.server", directory, home])
    os._exit(0)


def _is_served(directory: str) -> bool:
    """Whether a server lives; its file alone says nothing."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def serve(directory: str, home: str) -> None:
    """Until nobody has asked for `_IDLE_S`."""
    os.makedirs(directory, 0o700, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    status = os.fstat(lock)
    if status.st_uid != 0 or status.st_mode & 0o077:
        raise Failure(f"{directory} is not root's alone")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    requests = os.pipe2(os.O_CLOEXEC)
    for slot in range(_FIRST_SLOT, _FIRST_SLOT + _SLOTS):
        _renew(slot)
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    process.set_name(NAME)
    rehearsal.specialise(lambda: None)
    gc.collect()
    gc.freeze()
    gc.disable()
    _announce(directory, f"{os.getpid()} {requests[1]} {_FIRST_SLOT} {_FIRST_SLOT + _SLOTS - 1} {home}\n")
    _attend(directory, requests[0])
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/server", encoding="utf-8") as file:
        if file.read().startswith(f"{os.getpid()} "):  # another's, when somebody took our directory away
            os.unlink(f"{directory}/server")


def _attend(directory: str, requests: int) -> None:
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    workers = Workers(waiting)
    workers.hatch()
    until = time.monotonic() + _IDLE_S
    while (left := until - time.monotonic()) > 0:
        found = waiting.poll(_BREATH_MS if workers.lacking else left * 1000)
        if not found and workers.lacking:  # the run that has just begun needed the processors more
            workers.hatch()
        for fd in [fd for fd, _ in found if fd != requests]:
            workers.attend(fd)
        if (requests, select.POLLIN) in found:
            until = time.monotonic() + _IDLE_S
            for line in os.read(requests, 65536).splitlines(keepends=True):
                slot = int(line.split()[1])
                workers.give(line, slot)
                _renew(slot)  # only the worker can answer now; its end is the end of the answer
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{directory}/{slot}")


def _announce(directory: str, text: str) -> None:
    with open(f"{directory}/new", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(f"{directory}/new", f"{directory}/server")


def _renew(slot: int) -> None:
    readable, writable = os.pipe2(os.O_CLOEXEC)
    os.dup2(writable, slot, inheritable=False)
    os.close(writable)
    os.close(readable)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
