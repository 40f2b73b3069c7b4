"""A warm interpreter for ``run``: it forks a process that takes the caller's place, and goes when nobody has asked for a while.

The other side is the shell script ``wherry-runtime``. Through ``DIRECTORY/server`` it knows this process and, by number, a pipe for
requests and some for answers, which it opens by /proc/PID/fd: what a dead server left behind can mislead nobody. A file named as the slot
reserves a pipe for answers until its request is taken. Only root can reach any of this.

A request is refused, and the caller starts Python itself, unless the caller is as we are in all that a container inherits: namespaces,
control groups, root, ids, capabilities, seccomp, labels. What can be copied is: descriptors, directory, umask, limits, priorities.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from wherry.bundle import bundles, commandline, main, running  # noqa: F401 -- running is what a worker needs
from wherry.bundle.cradle import Cradle
from wherry.bundle.failures import Failure
from wherry.kernel import cgroup, process
from wherry.runtime import channel, rehearsal

NAME = "wherry-oci"
_SLOTS = 16
_FIRST_SLOT = 100
_IDLE_S = 20
_BREATH_MS = 4
_CALLERS_STDIO = (6, 7, 8)  # where the script keeps them
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_STATUS = ("Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:")
_FILES = ("cgroup", "personality", "oom_score_adj", "loginuid", "attr/current")
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


class Unlike(Exception):
    """The caller is in another world than ours, or wants what only a process of its own can do."""


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
    own = _world(os.getpid())
    rehearsal.specialise(lambda: None)
    gc.collect()
    gc.freeze()
    gc.disable()
    _announce(directory, f"{os.getpid()} {requests[1]} {_FIRST_SLOT} {_FIRST_SLOT + _SLOTS - 1} {home}\n")
    waiting = select.poll()
    waiting.register(requests[0], select.POLLIN)
    worker: socket.socket | None = None
    while True:
        if worker is None and not waiting.poll(_BREATH_MS):  # the run that has just begun needs the processors more
            worker = _hatch(own)
        if not waiting.poll(_IDLE_S * 1000):
            break
        for line in os.read(requests[0], 65536).splitlines(keepends=True):
            with worker or _hatch(own) as chosen:
                slot = int(line.split()[1])
                channel.send_encoded(chosen, line, [slot])
            worker = None
            _renew(slot)  # only the worker can answer now; its end is the end of the answer
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/{slot}")
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/server", encoding="utf-8") as file:
        if file.read().startswith(f"{os.getpid()} "):  # another's, when somebody took our directory away
            os.unlink(f"{directory}/server")


def _hatch(own: Mapping[str, str]) -> socket.socket:
    """Fork the next worker ahead of its request, which comes by the socket with the descriptor for the answer."""
    ours, theirs = channel.pair()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    if (own_fd := theirs.fileno()) > 3:
        process.close_range(3, last=own_fd - 1)  # the lock among them: a container may outlive the server
    process.close_range(own_fd + 1)
    cradle = Cradle(cgroup.find())
    rehearsal.plan_start()  # makes the pages private that the work will write to
    try:
        line, fds = channel.receive_encoded(theirs)
    except channel.Closed:
        os._exit(0)
    theirs.close()
    _work(int(line.split()[0]), fds[0], own, cradle)
    os._exit(0)


def _announce(directory: str, text: str) -> None:
    with open(f"{directory}/new", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(f"{directory}/new", f"{directory}/server")


def _renew(slot: int) -> None:
    readable, writable = os.pipe2(os.O_CLOEXEC)
    os.dup2(writable, slot, inheritable=False)
    os.close(writable)
    os.close(readable)


def _work(caller: int, slot: int, own: Mapping[str, str], cradle: Cradle) -> None:
    """In the forked process: run the caller's command in its place.  Never returns."""
    code = 255
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))  # until there is a program to pass them on to
        process.set_name("wherry-run")
        try:
            words = _take_place(caller, own, cradle.pid)
        except (Unlike, Failure, OSError):
            os.write(slot, b"python\n")
            os._exit(0)
        os.write(slot, f"worker {os.getpid()}\n".encode())
        code = main.main(words, cradle)
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(slot, f"ended {code}\n".encode())
        os._exit(0)


def _take_place(caller: int, own: Mapping[str, str], first: int) -> list[str]:
    """The caller's words, after we, and the process that will be the container's ``first``, have become like it.  Raises Unlike."""
    pidfd = os.pidfd_open(caller)
    with open(f"/proc/{caller}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[2:-1]]
    _check(words, caller)
    if _world(caller) != own:
        raise Unlike
    for number, theirs in enumerate(_CALLERS_STDIO):
        fd = process.pidfd_getfd(pidfd, theirs)
        os.dup2(fd, number)
        os.close(fd)
    os.close(pidfd)
    directory = os.open(f"/proc/{caller}/cwd", os.O_PATH | os.O_CLOEXEC)
    os.fchdir(directory)
    os.close(directory)
    for limit in _LIMITS:
        if (values := resource.prlimit(caller, limit)) != resource.getrlimit(limit):
            resource.prlimit(first, limit, values)
            resource.setrlimit(limit, values)
    if (nice := os.getpriority(os.PRIO_PROCESS, caller)) != os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, first, nice)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    if (affinity := os.sched_getaffinity(caller)) != os.sched_getaffinity(0):
        os.sched_setaffinity(first, affinity)
        os.sched_setaffinity(0, affinity)
    return words


def _check(words: Sequence[str], caller: int) -> None:
    """Raises Unlike for what needs the caller's own descendants, descriptors, keyring or terminal."""
    command = commandline.parse(words)
    options = command.options
    if command.verb != "run" or any(
        options[name] for name in ("detach", "preserve-fds", "no-new-keyring", "no-subreaper", "no-pivot", "console-socket", "pidfd-socket")
    ):
        raise Unlike
    with open(f"/proc/{caller}/environ", "rb") as file:
        if b"LISTEN_FDS=" in file.read():
            raise Unlike
    if os.sched_getscheduler(caller) != os.SCHED_OTHER:
        raise Unlike
    bundle = os.path.join(f"/proc/{caller}/cwd", options["bundle"])
    process_object = bundles.load(bundle).get("process")
    if not isinstance(process_object, dict) or process_object.get("terminal"):
        raise Unlike


def _world(pid: int) -> dict[str, str]:
    """What a container inherits and one process cannot take over from another."""
    found = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES}
    root = os.stat(f"/proc/{pid}/root")
    found["root"] = f"{root.st_dev}:{root.st_ino}"
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        found["status"] = "".join(line for line in file if line.startswith(_STATUS))
    for name in _FILES:
        try:
            with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
                found[name] = file.read()
        except OSError:
            found[name] = ""
    return found


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
