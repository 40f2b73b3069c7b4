"""Leave a server behind.  Only built-in modules: a command that does it has been started cold and is about to end."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence
    from typing import NoReturn
else:
    import _signal

_DEFAULTED = (1, 2, 3, 10, 12, 13, 14, 15, 17, 18, 20, 21, 22, 25, 28)  # signals that a caller may have had ignored


def leave(directory: str, program: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start ``program DIRECTORY``, unless a server has ``directory`` already.  For a process that ends now: its streams are closed first.

    The server inherits the lock from here: of two commands that find none, only one starts one.
    """
    lock = take(directory)
    if lock is None:
        return
    os.chdir("/")  # before the fork: our caller goes on as soon as we end
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if os.fork() == 0:  # not posix_spawn(3): with glibc that leaves signals 32 and 33 ignored
        try:
            _become(lock, [*program, directory], environment)
        finally:
            os._exit(255)


def _become(lock: int, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    os.setsid()
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != lock:
            try:
                os.set_inheritable(number, False)
            except OSError:
                continue  # the listing's own
    os.set_inheritable(lock, True)
    for signal in _DEFAULTED:
        _signal.signal(signal, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.execve(command[0], list(command), environment)


def take(directory: str) -> int | None:
    """The lock of ``directory``, which is made; None when another has it, or when the directory is not this user's alone."""
    import fcntl

    os.makedirs(directory, 0o700, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    status = os.fstat(lock)
    try:
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None
