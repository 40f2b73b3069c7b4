"""The process that asks: what it is, and how another process becomes like it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence

from wherry.kernel import process

STDIO = (6, 7, 8)  # where the scripts keep their standard descriptors while they wait
ANSWER = 9  # and the pipe by which they are answered
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_STATUS = (b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp:")
_FILES = ("cgroup", "personality", "oom_score_adj", "loginuid", "attr/current")
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
_READ_BYTES = 1 << 16


class Unlike(Exception):
    """The caller is in another world than ours, or wants what only a process of its own can do."""


def read(pid: int, name: str) -> bytes:
    """A file of /proc/PID, whole."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, _READ_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def check_asks(pid: int, answer: int) -> None:
    """Raises Unlike unless ``pid`` holds the other end of ``answer``: a number from another pid namespace is somebody else's."""
    try:
        if os.path.samestat(os.stat(f"/proc/{pid}/fd/{ANSWER}"), os.fstat(answer)):
            return
    except OSError:
        pass
    raise Unlike


def world(pid: int, status: bytes) -> dict[str, object]:
    """What is inherited, and one process cannot take over from another.  ``status``: the text of /proc/PID/status."""
    found: dict[str, object] = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES}
    root = os.stat(f"/proc/{pid}/root")
    found["root"] = (root.st_dev, root.st_ino)
    found["status"] = [line for line in status.splitlines() if line.startswith(_STATUS)]
    for name in _FILES:
        try:
            found[name] = read(pid, name)
        except OSError:
            found[name] = b""
    return found


def take_descriptors(pid: int) -> None:
    """Make the caller's standard descriptors ours."""
    pidfd = os.pidfd_open(pid)
    for number, theirs in enumerate(STDIO):
        fd = process.pidfd_getfd(pidfd, theirs)
        os.dup2(fd, number)
        os.close(fd)
    os.close(pidfd)


def take_place(pid: int, also: Sequence[int] = ()) -> bool:
    """Take the caller's directory, limits and priorities; whether that took nothing that stays.  ``also``: others that get the latter two.

    Raises Unlike for what cannot be taken.
    """
    directory = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_CLOEXEC)
    os.fchdir(directory)
    os.close(directory)
    if os.sched_getscheduler(pid) != os.SCHED_OTHER:
        raise Unlike
    lasting = True
    for limit in _LIMITS:
        if (values := resource.prlimit(pid, limit)) != resource.getrlimit(limit):
            lasting = False
            for other in also:
                resource.prlimit(other, limit, values)
            resource.setrlimit(limit, values)
    if (nice := os.getpriority(os.PRIO_PROCESS, pid)) != os.getpriority(os.PRIO_PROCESS, 0):
        lasting = False
        for other in (*also, 0):
            os.setpriority(os.PRIO_PROCESS, other, nice)
    if (affinity := os.sched_getaffinity(pid)) != os.sched_getaffinity(0):
        lasting = False
        for other in (*also, 0):
            os.sched_setaffinity(other, affinity)
    return lasting


def ignored_signals(status: bytes) -> set[int]:
    """The signals that are ignored, from the text of /proc/PID/status.  Raises Unlike when some are blocked: nothing can tell of those."""
    fields = dict(line.split(b":\t", 1) for line in status.splitlines() if line.startswith((b"SigBlk", b"SigIgn")))
    if int(fields[b"SigBlk"], 16):
        raise Unlike
    mask = int(fields[b"SigIgn"], 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}  # not 32 and 33: those are the C library's


def umask(status: bytes) -> int:
    """The umask, from the text of /proc/PID/status."""
    return int(status.partition(b"\nUmask:\t")[2][:4], 8)
