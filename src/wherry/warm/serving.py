"""The server: it forks a worker ahead of each request, and goes when nobody has asked for a while.

The other side is a shell script. Through ``DIRECTORY/server`` it knows this process and, by number, a pipe for requests and some for
answers, which it opens by /proc/PID/fd: what a dead server left behind can mislead nobody. A file named as the slot reserves a pipe for
answers until its request is taken. Only the user whose directory it is can reach any of this.

A request is a line ``CALLER SLOT ...``. The answer is ``worker PID`` (to pass signals on to), then ``ended CODE``; or ``python``: do it
yourself. The worker's end is the end of the answer, and a caller that is killed takes its worker with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from wherry.kernel import process
from wherry.warm.caller import Unlike

_SLOTS = 120
_FIRST_SLOT = 100
_IDLE_S = 20
_BREATH_MS = 4

Ready = TypeVar("Ready")


class Request(NamedTuple):
    """One request as the worker gets it; ``slot`` is the descriptor for the answer."""

    caller: int
    slot: int
    rest: tuple[bytes, ...]


class Worker(NamedTuple):
    """A forked process that waits for its request at the other end of ``channel``."""

    pid: int
    channel: socket.socket


def serve(directory: str, home: str, name: str, prepare: Callable[[bool], Ready], work: Callable[[Request, Ready], None]) -> None:
    """Until nobody has asked for `_IDLE_S`.  The lock of ``directory`` is held (`leaving.take`).

    ``prepare`` is called in each worker before its request (True: ahead of time), ``work`` with it; that raises Unlike for what the
    caller does itself. A program that was installed anew is not ours any longer: then all do it themselves, and the server ends.
    """
    files = _program_files()
    requests = os.pipe2(os.O_CLOEXEC)
    for slot in range(_FIRST_SLOT, _FIRST_SLOT + _SLOTS):
        _renew(slot)
    for entry in os.listdir(directory):
        os.unlink(f"{directory}/{entry}")
    process.set_name(name)
    gc.collect()
    gc.freeze()
    gc.disable()
    with open(f"{directory}/new", "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {requests[1]} {_FIRST_SLOT} {_FIRST_SLOT + _SLOTS - 1} {home}\n")
    os.rename(f"{directory}/new", f"{directory}/server")
    _Loop(directory, requests[0], files, lambda ahead: _hatch(ahead, prepare, work)).run()
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/server", encoding="utf-8") as file:
        if file.read().startswith(f"{os.getpid()} "):  # another's, when somebody took our directory away
            os.unlink(f"{directory}/server")


class _Loop:
    """The worker that is ready, and those at work.  None is reaped before its caller has ended: a signal finds nobody else."""

    def __init__(self, directory: str, requests: int, files: Mapping[str, tuple[int, int]], hatch: Callable[[bool], Worker]) -> None:
        self._directory = directory
        self._requests = requests
        self._files = files
        self._hatch = hatch
        self._ready: Worker | None = None
        self._workers: dict[int, int] = {}  # those at work, by the pidfd of their caller
        self._stale = False
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)

    def run(self) -> None:
        while True:
            if self._ready is None and not self._stale and not self._poll.poll(_BREATH_MS):
                self._ready = self._hatch(True)  # after a breath: the command that has just begun needs the processors more
            events = self._poll.poll(None if self._workers else _IDLE_S * 1000)
            if not events:
                break
            for fd, _ in events:
                if fd == self._requests:
                    for line in os.read(fd, 1 << 16).splitlines():
                        self._take(line)
                else:
                    self._release(fd)
            if self._stale and not self._workers:
                break
        if self._ready is not None:
            self._ready.channel.close()

    def _take(self, line: bytes) -> None:
        caller, slot = map(int, line.split()[:2])
        self._stale = self._stale or not _is_current(self._files)
        worker = None
        if self._stale:
            os.write(slot, b"python\n")
        else:
            worker, self._ready = self._ready or self._hatch(False), None
            with worker.channel:
                socket.send_fds(worker.channel, [line], [slot])
        _renew(slot)  # only the worker can answer now
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{slot}")
        if worker is not None:
            self._watch(caller, worker.pid)

    def _watch(self, caller: int, worker: int) -> None:
        try:
            pidfd = os.pidfd_open(caller)
        except OSError:  # killed meanwhile
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            return
        self._workers[pidfd] = worker
        self._poll.register(pidfd, select.POLLIN)

    def _release(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        worker = self._workers.pop(pidfd)
        os.kill(worker, signal.SIGKILL)  # one that has answered does nothing more
        os.waitpid(worker, 0)


def _hatch(ahead: bool, prepare: Callable[[bool], Ready], work: Callable[[Request, Ready], None]) -> Worker:
    """Fork a worker; its request comes by the socket, with the descriptor for the answer."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if pid := os.fork():
        theirs.close()
        return Worker(pid, ours)
    try:
        ours.close()
        if (own_fd := theirs.fileno()) > 3:
            process.close_range(3, last=own_fd - 1)  # the lock among them: what is started here may outlive the server
        process.close_range(own_fd + 1)
        ready = prepare(ahead)
        line, fds, _, _ = socket.recv_fds(theirs, 256, 1)
        theirs.close()
        if fds:
            _answer(line, fds[0], work, ready)
    finally:
        os._exit(0)


def _answer(line: bytes, slot: int, work: Callable[[Request, Ready], None], ready: Ready) -> None:
    caller, _, *rest = line.split()
    try:
        work(Request(int(caller), slot, tuple(rest)), ready)
    except (Unlike, OSError):
        os.write(slot, b"python\n")


def _renew(slot: int) -> None:
    readable, writable = os.pipe2(os.O_CLOEXEC)
    os.dup2(writable, slot, inheritable=False)
    os.close(writable)
    os.close(readable)


def _program_files() -> dict[str, tuple[int, int]]:
    """The files of the modules we have in memory, and of the interpreter, each with inode and time of change."""
    names = [str(module.__file__) for name, module in sys.modules.items() if name.startswith("wherry.") and module.__file__]
    return {name: _version(name) for name in (*names, sys.executable)}


def _version(name: str) -> tuple[int, int]:
    status = os.stat(name)
    return status.st_ino, status.st_mtime_ns


def _is_current(files: Mapping[str, tuple[int, int]]) -> bool:
    try:
        return all(_version(name) == version for name, version in files.items())
    except FileNotFoundError:
        return False
