"""A warm process that takes the place of one caller of ``run`` after the other, with the next container's first process in reserve.

The server forks it (`server`), and another when it ends: after what it cannot take back, such as another's limits, a child or a descriptor
that stays.

A caller is refused, and starts Python itself, unless it is as we are in all that a container inherits: namespaces, control groups, root,
ids, capabilities, seccomp, labels. What can be copied is: descriptors, directory, umask, limits, priorities.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

from wherry.bundle import bundles, commandline, main, running  # noqa: F401 -- running is what a run needs
from wherry.bundle.cradle import Cradle, Nest
from wherry.bundle.failures import Failure
from wherry.kernel import process
from wherry.runtime import channel, filters, rehearsal

READY = b"ready"
_MOST_RUNS = 200  # nothing collects cycles here
_LEAVE_MS = 1000
_CALLERS_STDIO = (6, 7, 8)  # where the script keeps them
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_STATUS = ("Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:")
_UMASK = "Umask:"
_FILES = ("cgroup", "personality", "oom_score_adj", "loginuid", "attr/current")
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


class Unlike(Exception):
    """The caller is in another world than ours, or wants what only a process of its own can do."""


def live(orders: socket.socket, own: Mapping[str, str]) -> NoReturn:
    """Say when ready, then serve whom the server names, with the descriptor for the answer.  ``own``: our `world`."""
    own = {name: value for name, value in own.items() if name != _UMASK}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))  # but for a program to pass them on to, while there is one
    process.set_name("wherry-run")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    compiler = filters.Compiler()
    rehearsal.plan_start()  # makes the pages private that the work will write to
    nest = Nest()
    for _ in range(_MOST_RUNS):
        opened = _descriptors(compiler)
        try:
            cradle = nest.cradle(compiler)
            channel.send_encoded(orders, READY)
            line, fds = channel.receive_encoded(orders)
        except channel.Closed:
            break
        caller, slot = int(line.split()[0]), fds[0]
        clean = _serve(caller, slot, own, cradle)
        os.chdir("/")
        for number in range(3):
            os.dup2(null, number)
        if not clean or _children() != {nest.pid} or _descriptors(compiler) != opened:
            break
    os._exit(0)


def _descriptors(compiler: filters.Compiler) -> set[str]:
    return set(os.listdir("/proc/self/fd")) - set(map(str, compiler.descriptors()))


def _children() -> set[int]:
    """Those that live, after the others were reaped.  Source: proc(5), /proc/pid/task/tid/children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return set(map(int, file.read().split()))
    except FileNotFoundError:  # a kernel that does not tell
        return set()


def _serve(caller: int, slot: int, own: Mapping[str, str], cradle: Cradle) -> bool:
    """Run the caller's command in its place; whether we can be another's after that."""
    pidfd = os.pidfd_open(caller)
    try:
        words, lasting = _take_place(caller, pidfd, own, cradle.pid)
    except (Unlike, Failure, OSError):
        os.write(slot, b"python\n")
        os._exit(0)
    os.write(slot, f"worker {os.getpid()}\n".encode())
    code = 255
    try:
        code = main.main(words, cradle)
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(slot, f"ended {code}\n".encode())
    os.close(slot)
    left = _has_left(pidfd)
    os.close(pidfd)
    return lasting and left


def _has_left(pidfd: int) -> bool:
    """Whether the caller is gone, who could send us signals that are not for the next one's program."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    left = bool(waiting.poll(_LEAVE_MS))
    while signal.sigtimedwait(set(signal.Signals), 0) is not None:
        pass
    return left


def _take_place(caller: int, pidfd: int, own: Mapping[str, str], first: int) -> tuple[list[str], bool]:
    """The caller's words, after we, and the process that will be the container's ``first``, have become like it.  Raises Unlike.

    Also whether we took nothing that stays with us.
    """
    with open(f"/proc/{caller}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[2:-1]]
    _check(words, caller)
    theirs = world(caller)
    os.umask(int(theirs.pop(_UMASK), 8))
    if theirs != own:
        raise Unlike
    for number, kept in enumerate(_CALLERS_STDIO):
        fd = process.pidfd_getfd(pidfd, kept)
        os.dup2(fd, number)
        os.close(fd)
    directory = os.open(f"/proc/{caller}/cwd", os.O_PATH | os.O_CLOEXEC)
    os.fchdir(directory)
    os.close(directory)
    lasting = True
    for limit in _LIMITS:
        if (values := resource.prlimit(caller, limit)) != resource.getrlimit(limit):
            resource.prlimit(first, limit, values)
            resource.setrlimit(limit, values)
            lasting = False
    if (nice := os.getpriority(os.PRIO_PROCESS, caller)) != os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, first, nice)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        lasting = False
    if (affinity := os.sched_getaffinity(caller)) != os.sched_getaffinity(0):
        os.sched_setaffinity(first, affinity)
        os.sched_setaffinity(0, affinity)
        lasting = False
    return words, lasting


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


def world(pid: int) -> dict[str, str]:
    """What a container inherits and one process cannot take over from another."""
    found = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES}
    root = os.stat(f"/proc/{pid}/root")
    found["root"] = f"{root.st_dev}:{root.st_ino}"
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    found["status"] = "".join(line for line in lines if line.startswith(_STATUS))
    found[_UMASK] = next(line for line in lines if line.startswith(_UMASK)).removeprefix(_UMASK)
    for name in _FILES:
        try:
            with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
                found[name] = file.read()
        except OSError:
            found[name] = ""
    return found
