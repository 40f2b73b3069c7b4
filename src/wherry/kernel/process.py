"""Processes: clone3, pidfds, prctl, close_range, keyrings."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import operator
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wherry.kernel import libc

if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # the builtin half of signal: the enums of the other write to pages that forks share

CLONE_FILES = 0x400  # include/uapi/linux/sched.h
CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 0x200000000
CLOSE_RANGE_CLOEXEC = 4
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
KEYCTL_JOIN_SESSION_KEYRING = 1  # include/uapi/linux/keyctl.h
SESSION_KEYRING = b"_ses"  # as others name it
_UNEXECUTED = 0x4 | 0x40  # PF_EXITING, PF_FORKNOEXEC

# PyDLL keeps the interpreter's lock across the call: the child must return from it owning the lock.
_python = ctypes.PyDLL(None, use_errno=True)
_raw = _python["syscall"]
_raw.restype = ctypes.c_long
_C_LIBRARYS_SIGNALS = (32, 33)  # whose actions its sigaction(3) does not change; a child of its posix_spawn(3) ignores the first
_DEFAULT_ACTION, _SIGNAL_SET_BYTES = bytes(32), 8  # the kernel's struct sigaction, for SIG_DFL
_CLONE = {"x86_64": 56, "aarch64": 220}.get(libc.MACHINE, 220)


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
            *("set_tid", "set_tid_size", "cgroup"),
        )
    )


_close_range = libc.bind_syscall("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_prctl = libc.bind("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_prctl_text = libc.bind("prctl", ctypes.c_int, ctypes.c_char_p)
_pidfd_getfd = libc.bind_syscall("pidfd_getfd", ctypes.c_int, ctypes.c_int, ctypes.c_uint)
_rt_sigaction = libc.bind_syscall("rt_sigaction", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_keyctl = libc.bind_syscall("keyctl", ctypes.c_int, ctypes.c_char_p)


def clone(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork into new namespaces: (0, -1) in the child, (pid, pidfd) in the parent.

    ``cgroup_fd``: a cgroup v2 directory the child starts in (CLONE_INTO_CGROUP). With CLONE_PARENT the child is this process's
    sibling. Where clone3 is forbidden clone(2) does it, without ``cgroup_fd``. Python's fork hooks run only in a process of several
    threads, which as after os.fork must not hold locks that the child takes.  Source: clone(2).
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=0 if flags & CLONE_PARENT else signal.SIGCHLD
    )
    if cgroup_fd >= 0:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    pid = _call_clone(ctypes.c_long(libc.SYSCALLS["clone3"]), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM) and cgroup_fd < 0:
        legacy = ctypes.c_ulong(flags | CLONE_PIDFD | signal.SIGCHLD)
        nowhere, nobody = ctypes.c_void_p(None), ctypes.c_long(0)
        pid = _call_clone(ctypes.c_long(_CLONE), legacy, nowhere, ctypes.byref(pidfd), nobody, nobody)
    libc.check(pid, "clone3")
    if pid == 0:
        return 0, -1
    return pid, pidfd.value


def _call_clone(*call: Any) -> int:
    """What syscall(2) returns.

    In a child without the threads that its parent had, nobody else would take the interpreter's lock when it is let go, as it is at the
    next Python instruction when one of them had asked for it. So no instruction may stand between clone and the hook that makes the
    lock anew: ``map`` makes both calls, and ``any`` ends in the parent at a number that is not 0.
    """
    if len(sys._current_frames()) == 1:
        return int(_raw(*call))
    steps: tuple[Callable[[], int], ...] = (functools.partial(_raw, *call), _python.PyOS_AfterFork_Child)
    results: dict[str, int] = {}
    any(map(results.setdefault, ("pid", "hook"), map(operator.call, steps)))
    return results["pid"]


def end(pidfd: int) -> None:
    """Kill a child, wait for its end, and close its descriptor.  It may have ended, and have been waited for, before."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)


def close_range(first: int, *, last: int = 0xFFFFFFFF, cloexec: bool = False) -> None:
    """Close, or with ``cloexec`` mark close-on-exec, all descriptors from ``first`` on.  Source: close_range(2)."""
    result = _close_range(first, last, CLOSE_RANGE_CLOEXEC if cloexec else 0)
    if result < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL):
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                _close_one(int(name), cloexec=cloexec)
        return
    libc.check(result, "close_range")


def close_others(*kept: int) -> None:
    """Close all descriptors but 0 to 2 and these."""
    first = 3
    for fd in sorted(kept):
        if fd > first:
            close_range(first, last=fd - 1)
        first = max(first, fd + 1)
    close_range(first)


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Source: prctl(2)."""
    return libc.check(_prctl(option, argument, second, 0, 0), "prctl")


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate, close-on-exec, of another process's descriptor; needs to be allowed to trace it.  Source: pidfd_getfd(2)."""
    return libc.check(_pidfd_getfd(pidfd, fd, 0), "pidfd_getfd")


def default_signals() -> None:
    """Give every signal its default action.  Source: sigaction(2)."""
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):  # None: the C library's own
            with contextlib.suppress(OSError):
                _signal.signal(number, _signal.SIG_DFL)
    for number in _C_LIBRARYS_SIGNALS:
        _rt_sigaction(number, _DEFAULT_ACTION, None, _SIGNAL_SET_BYTES)


def set_name(name: str) -> None:
    """What ps shows as the command's name, up to 15 bytes."""
    # A ctypes buffer would make a new type: that writes to a hundred pages, which a fork then no longer shares.
    libc.check(_prctl_text(PR_SET_NAME, name.encode()[:15]), "prctl")


def argument_area() -> tuple[int, int]:
    """Where this process's command line lies in its memory: first byte and length.  Source: proc(5), stat fields 48 and 49."""
    with open("/proc/self/stat", "rb") as file:
        text = file.read()
    fields = text[text.rindex(b")") + 2 :].split()
    start, end = int(fields[45]), int(fields[46])
    return start, max(0, end - start)


def set_title(area: tuple[int, int], title: str) -> None:
    """Write ``title`` over the command line, cut to its length: what ps and /proc/PID/cmdline show, inside a container too."""
    start, length = area
    if start and length:
        ctypes.memmove(start, title.encode()[: length - 1].ljust(length, b"\0"), length)


def is_ending_unexecuted(pid: int) -> bool:
    """Whether a child is ending, or a zombie, that never executed a program.  Source: proc_pid_stat(5), flags; include/linux/sched.h."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    flags = int(text[text.rindex(b")") + 2 :].split(None, 7)[6])
    return flags & _UNEXECUTED == _UNEXECUTED


def join_session_keyring() -> None:
    """Start a session keyring of its own; a kernel without keyrings has nothing to share and is left alone."""
    if _keyctl(KEYCTL_JOIN_SESSION_KEYRING, SESSION_KEYRING) < 0 and ctypes.get_errno() not in (
        *(errno.ENOSYS, errno.EPERM),
        *(errno.EDQUOT, errno.EOPNOTSUPP),
    ):
        libc.check(-1, "keyctl")


def _close_one(fd: int, *, cloexec: bool) -> None:
    try:
        if cloexec:
            os.set_inheritable(fd, False)
        else:
            os.close(fd)
    except OSError as error:
        if error.errno != errno.EBADF:  # the listing's own descriptor
            raise
