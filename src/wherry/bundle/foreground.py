"""Wait for a program in its caller's place: signals go to it, its terminal is relayed, and its exit code becomes ours."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wherry.bundle import console, notify

if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # the builtin half of signal: to make enums of a hundred answers takes a millisecond

_OURS = {signal.SIGCHLD, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}
_GATHERED = tuple(sorted(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE})))
_CHUNK = 32 << 10


@contextlib.contextmanager
def gathered_signals() -> Iterator[socket.socket]:
    """From here on signals wait on the socket, as bytes, for `wait` to pass them on; so none is lost while the program starts."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    handlers = {}
    for number in _GATHERED:
        handlers[number] = _signal.signal(number, _gather)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield ours
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            _signal.signal(number, handler)
        ours.close()
        theirs.close()


def _gather(*_: object) -> None:
    """The byte on the socket is all."""


def wait(pid: int, pidfd: int, signals: socket.socket, master: int = -1, relay: notify.Relay | None = None) -> int:
    """The exit code of ``pid``, a child; 128 + N after signal N.  Other children are reaped on the way.

    ``relay``: of what it says about its state; we are the service then.
    """
    with console.raw() if master >= 0 else contextlib.nullcontext():
        if master >= 0:
            console.copy_size(master)
        waiting = select.poll()
        waiting.register(signals, select.POLLIN)
        waiting.register(pidfd, select.POLLIN)
        if master >= 0:
            waiting.register(master, select.POLLIN)
            waiting.register(0, select.POLLIN)
        if relay is not None:
            waiting.register(relay, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll()}
            if relay is not None and relay.fileno() in ready:
                relay.pass_on(os.getpid())
            if master in ready and not _copy(master, 1):
                waiting.unregister(master)
            if 0 in ready and master >= 0 and not _copy(0, master):
                waiting.unregister(0)
            if signals.fileno() in ready:
                _pass_on(signals, pid, pidfd, master)
            if pidfd in ready:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _drain(master)
                return code if code >= 0 else 128 - code


def _pass_on(signals: socket.socket, pid: int, pidfd: int, master: int) -> None:
    for number in signals.recv(4096):
        if number == signal.SIGCHLD:
            _reap_others(pid)
        elif number == signal.SIGWINCH and master >= 0:
            console.copy_size(master)
        elif number not in _OURS:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)


def _reap_others(pid: int) -> None:
    """Children but the one we wait for, whose end must stay readable."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == pid:
                return
            os.waitpid(ended.si_pid, 0)


def _copy(source: int, target: int) -> bool:
    """False at the end."""
    try:
        data = os.read(source, _CHUNK)
    except OSError:  # EIO: nobody has the terminal open any more; or nothing is left to read
        return False
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return bool(data)


def _drain(master: int) -> None:
    """What the program wrote last."""
    if master < 0:
        return
    os.set_blocking(master, False)
    while _copy(master, 1):
        pass
