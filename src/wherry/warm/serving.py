"""The server: it has workers ready ahead of their callers, and goes when nobody has asked for a while.

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
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wherry.kernel import process
from wherry.warm import working

_SLOTS = 120
_FIRST_SLOT = 100
_IDLE_S = 20
_BREATH_MS = 10
_MOST_READY = 4
_FIRST_NUDGE_S = 0.05
_NUDGE_S = 1.0

Live = Callable[[socket.socket, bool], None]


def serve(directory: str, home: str, name: str, live: Live) -> None:
    """Until nobody that can be served has asked for `_IDLE_S`.  The lock of ``directory`` is held (`leaving.take`).

    ``live`` is a worker's life (`working`), given its end of the line, and whether it is made ahead of time. A program that was installed
    anew is not ours any longer: then callers do it themselves, and the server ends.
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
    _Loop(directory, requests[0], files, live).run()
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/server", encoding="utf-8") as file:
        if file.read().startswith(f"{os.getpid()} "):  # another's, when somebody took our directory away
            os.unlink(f"{directory}/server")
    with contextlib.suppress(OSError):
        os.rmdir(directory)


@dataclass(slots=True, eq=False)
class _Worker:
    """A forked process at the other end of ``line``; ``caller`` is the pidfd of the one it works for, or -1.

    ``credit``: how often it said that it is ready, less how often it was given something.
    """

    pid: int
    line: socket.socket
    caller: int = -1
    nudged: float = 0.0  # when its caller is nudged next, by time.monotonic()
    credit: int = 0
    is_fresh: bool = True
    has_answered: bool = False
    has_refused: bool = False
    is_gone: bool = False

    @property
    def is_ready(self) -> bool:
        return self.credit > 0

    def hear(self) -> bool:
        """Take what it says, or its end; whether there was something."""
        try:
            word = self.line.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            word = b""
        self.credit += word == working.READY
        self.has_refused |= word == working.REFUSED
        self.has_answered |= word in (working.ANSWERED, working.REFUSED)
        self.is_gone |= not word
        return bool(word)


class _Loop:
    """Gives requests to workers.  None is reaped before its caller has ended: a signal finds nobody else."""

    def __init__(self, directory: str, requests: int, files: Mapping[str, tuple[int, int]], live: Live) -> None:
        self._directory = directory
        self._requests = requests
        self._files = files
        self._live = live
        self._workers: set[_Worker] = set()
        self._by_fd: dict[int, _Worker] = {}  # by its line, and by its caller
        self._stale = False
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)

    def run(self) -> None:
        until = time.monotonic() + _IDLE_S
        while True:
            at_work = any(worker.caller >= 0 for worker in self._workers)
            lacking = not self._stale and not any(worker.is_ready or worker.is_fresh for worker in self._workers)
            left = until - time.monotonic()
            if not at_work and (left <= 0 or self._stale):
                break
            if at_work:
                left = self._nudge()
            events = self._poll.poll(_BREATH_MS if lacking else left * 1000)
            if not events and lacking:  # the command that has just begun needed the processors more
                self._hatch(ahead=True)
            for fd, _ in events:
                if fd == self._requests:
                    for line in os.read(fd, 1 << 16).splitlines():
                        self._take(line)
                elif worker := self._by_fd.get(fd):
                    if fd == worker.caller:
                        self._release(worker)
                        self._reap(worker)
                    else:
                        self._attend(worker)
                    if worker.has_answered and not worker.has_refused:  # callers of another world shall get a server of their own
                        until = time.monotonic() + _IDLE_S

    def _nudge(self) -> float:
        """Interrupt what the scripts and the workers wait in, now and then, and say after how many seconds again.

        A signal that comes just before a shell's ``read`` blocks is not seen until that returns; nor is one by Python code, whatever it
        waits in.
        """
        now = time.monotonic()
        at_work = [worker for worker in self._workers if worker.caller >= 0]
        for worker in at_work:
            if worker.nudged <= now:
                worker.nudged = now + _NUDGE_S
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker.caller, signal.SIGURG)  # ignored, but by a script that waits
                    os.kill(worker.pid, signal.SIGURG)
        return min(worker.nudged for worker in at_work) - now

    def _take(self, line: bytes) -> None:
        caller, slot = map(int, line.split()[:2])
        self._stale = self._stale or not _is_current(self._files)
        try:
            pidfd = os.pidfd_open(caller)
        except OSError:  # killed meanwhile
            pidfd = -1
        if self._stale or pidfd < 0:
            os.write(slot, b"python\n")
        else:
            self._give(line, slot, pidfd)
        _renew(slot)  # only the worker can answer now
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{slot}")

    def _give(self, line: bytes, slot: int, pidfd: int) -> None:
        while True:
            worker = next((one for one in self._workers if one.is_ready and one.caller < 0), None) or self._hatch(ahead=False)
            worker.credit -= 1
            worker.is_fresh = worker.has_answered = False
            try:
                socket.send_fds(worker.line, [line], [slot])
            except (BrokenPipeError, ConnectionResetError):
                continue  # it was killed: `_attend` will hear of it
            worker.caller, worker.nudged = pidfd, time.monotonic() + _FIRST_NUDGE_S
            self._watch(pidfd, worker)
            return

    def _watch(self, fd: int, worker: _Worker) -> None:
        self._by_fd[fd] = worker
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._by_fd[fd]

    def _attend(self, worker: _Worker) -> None:
        """It has said something, or is gone."""
        worker.hear()
        if worker.is_ready and (self._stale or sum(one.is_ready for one in self._workers) > _MOST_READY):
            worker.is_gone = True
        if worker.is_gone:
            self._unwatch(worker.line.fileno())
            worker.line.close()
            if worker.caller >= 0 and worker.has_refused:  # it never told its caller its number
                self._release(worker)
            self._reap(worker)

    def _release(self, worker: _Worker) -> None:
        """Its caller has ended, or needs it no longer."""
        while not worker.is_gone and worker.hear():
            pass
        if not worker.has_answered:
            os.kill(worker.pid, signal.SIGKILL)
        self._unwatch(worker.caller)
        os.close(worker.caller)
        worker.caller = -1

    def _reap(self, worker: _Worker) -> None:
        if worker.is_gone and worker.line.fileno() < 0 and worker.caller < 0:
            os.waitpid(worker.pid, 0)
            self._workers.discard(worker)

    def _hatch(self, *, ahead: bool) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if pid := os.fork():
            theirs.close()
            worker = _Worker(pid, ours)
            self._workers.add(worker)
            self._watch(ours.fileno(), worker)
            return worker
        try:
            if (own_fd := theirs.fileno()) > 3:
                process.close_range(3, last=own_fd - 1)  # the lock among them: what is started here may outlive the server
            process.close_range(own_fd + 1)
            self._live(theirs, ahead)
        finally:
            os._exit(0)


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
