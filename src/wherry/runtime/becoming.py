"""How a process becomes a container's program: every step, in its order, once.

The steps are `Calls`: `init` has a process make them of itself, and ``bundle/builder.py`` writes them down for one without an interpreter.
A change of the sandbox is made here, and both have it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wherry.kernel import credentials, process, terminal
from wherry.runtime import defaults, filters, users
from wherry.runtime.calls import Calls
from wherry.runtime.failure import StartFailure, lowered, words
from wherry.runtime.plan import Plan
from wherry.runtime.steps import Sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a first process needs besides its plan.  ``stdio``: three descriptors (-1: the null device), or () with a terminal.

    ``program``: the filter or b"".
    ``gate_fd``: read before privileges go; no byte there means that what the program was to wait for, its network, has failed.
    ``awaits_parent``: then a byte is read from the channel of the report too, which the parent writes once it is ready itself.
    For a bundle: ``exact``: ids and groups are what the config says, whatever the image's files add; ``outlives``: its parent's end is not
    its own; ``preserve_fds``: how many descriptors from 3 on the program inherits; ``keeps_cpus``: it may use those that it runs on and no
    others; ``limit`` has another set the resource limits, who may do more; ``rendezvous`` is called before the root is entered, ``gate``
    before privileges go, and may put another channel in the place of the report's.
    """

    process: Mapping[str, Any]
    user: str
    groups: tuple[str, ...]
    stdio: tuple[int, ...]
    terminal: bool
    program: bytes
    reaper: bool = False
    gate_fd: int = -1
    awaits_parent: bool = False
    program_flags: int = 0
    exact: bool = False
    outlives: bool = False
    preserve_fds: int = 0
    keyring: bool = True
    keeps_cpus: bool = False
    limit: Callable[[], None] | None = None
    rendezvous: Callable[[], None] | None = None
    gate: Callable[[socket.socket], None] | None = None


def describe_start(message: Mapping[str, Any], stdio: tuple[int, ...], program_fd: int, gate_fd: int = -1) -> Start:
    """The `Start` of a launch's or an exec's message."""
    return Start(
        process=message["process"] if message["op"] == "execute" else message["config"]["process"],
        user=message.get("user") or "",
        groups=tuple(message.get("groups") or ()),
        stdio=stdio,
        terminal=bool(message["terminal"]),
        program=filters.read_program(program_fd) if program_fd >= 0 else b"",
        reaper=bool(message.get("init")),
        gate_fd=gate_fd,
        awaits_parent=True,
    )


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be executed."""

    arguments: list[str]
    environment: dict[str, str]

    def files(self) -> Iterator[str]:
        """Where it may be, found as Go's exec.LookPath does.  Raises StartFailure with Docker's words and code instead of finding none."""
        name = self.arguments[0]
        quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if "/" in name:
            yield _checked(name, quoted)
            return
        found = False
        for directory in self.environment.get("PATH", defaults.PATH.partition("=")[2]).split(":"):
            candidate = os.path.join(directory or ".", name)
            if os.path.isfile(candidate) and _is_executable(candidate):
                found = True
                yield candidate
        if not found:
            raise StartFailure(127, f"exec: {quoted}: executable file not found in $PATH")


def carry_out(planned: Plan, start: Start, sandbox: Sandbox) -> None:
    """Make the container around the process.  ``sandbox``: what there is of it already.  Raises StartFailure."""
    if start.keyring:
        sandbox.calls.join_session_keyring()
    for step in planned.steps:
        try:
            step.execute(sandbox)
        except OSError as error:
            raise StartFailure(128, f"{step.describe()}: {words(error)}") from error


def become(calls: Calls, start: Start, slave_fd: int = -1, at_gate: Callable[[Program], None] | None = None) -> Program:
    """All between the container and the program: described in the container, by a process that need not be the one that becomes it.

    ``slave_fd``: of the terminal, and this process's own; ``at_gate``: what waits before privileges go.  Raises StartFailure, OSError.
    `filter_last` must follow.
    """
    wanted = start.process
    who = _identity(start)
    program = Program(list(wanted["args"]), _environment(wanted.get("env") or (), who.home))
    calls.setsid()
    if slave_fd >= 0:
        terminal.make_controlling(slave_fd)
    _connect(calls, (slave_fd,) * 3 if slave_fd >= 0 else start.stdio, who.uid)
    _enter_directory(wanted.get("cwd") or "/")
    calls.enter_this_directory()
    _limit(calls, start)
    mask = (wanted.get("user") or {}).get("umask")
    calls.umask(0o022 if mask is None else mask)
    calls.close_on_exec(3 + start.preserve_fds)
    if start.exact and not start.keeps_cpus:
        calls.use_every_cpu()
    calls.default_signals()
    if at_gate is not None:
        at_gate(program)
    _drop_privileges(calls, start, who)
    if not start.outlives:
        calls.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    return program


def filter_last(calls: Calls, start: Start) -> None:
    """With no_new_privs the filter needs no privilege, and comes last of all, so that it may refuse all that has led here."""
    if start.program and start.process.get("noNewPrivileges"):
        calls.seccomp(start.program, start.program_flags)


def _identity(start: Start) -> users.Identity:
    """By the container's files, and by what was asked for."""
    user: Mapping[str, Any] = start.process.get("user") or {}
    uid, gid, extra = user.get("uid") or 0, user.get("gid") or 0, tuple(user.get("additionalGids") or ())
    users.check_range(uid, gid, *extra)
    root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        if start.exact:
            return users.Identity(uid=uid, gid=gid, groups=extra, home=users.home(root_fd, uid))
        if start.user or not user:
            return users.resolve(*users.read(root_fd), start.user, start.groups)
        identity = users.resolve(*users.read(root_fd), str(uid), start.groups)
    finally:
        os.close(root_fd)
    groups = tuple(dict.fromkeys((gid, *extra, *(identity.groups if not uid and not gid else ()))))
    return users.Identity(uid=uid, gid=gid, groups=groups, home=identity.home)


def _environment(pairs: Any, home: str) -> dict[str, str]:
    environment = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key and equals:
            environment[key] = value
    if not environment.get("HOME"):
        environment["HOME"] = home
    return environment


def _connect(calls: Calls, stdio: tuple[int, ...], uid: int) -> None:
    """Descriptors 0 to 2; the user may open them again by /dev/stdout, so they are his."""
    for number, fd in enumerate(stdio):
        if fd < 0 or _is_null(fd):
            calls.dup2(_own_null(), number)  # the host's node would be the program's to change: its mode, its owner
            continue
        calls.dup2(fd, number)
        if uid:
            calls.fchown(number, uid)


def _is_null(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def _own_null() -> int:
    """The container's /dev/null; where it has something else in that place, the end of a pipe that nobody writes to."""
    with contextlib.suppress(OSError):
        fd = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if _is_null(fd):
            os.set_blocking(fd, True)
            return fd
        os.close(fd)
    readable, writable = os.pipe2(os.O_CLOEXEC)
    os.close(writable)
    return readable


def _enter_directory(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        raise StartFailure(127, f'chdir to cwd ("{cwd}") set in config.json failed: {lowered(error)}') from None
    try:
        inside = os.getcwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise StartFailure(
            128, "current working directory is outside of container mount namespace root -- possible container breakout detected"
        )


def _limit(calls: Calls, start: Start) -> None:
    if start.limit is not None:
        start.limit()
        return
    for limit in start.process.get("rlimits") or ():
        calls.prlimit(limit["type"], limit["soft"], limit["hard"], exact=start.exact)


def _drop_privileges(calls: Calls, start: Start, who: users.Identity) -> None:
    """Bounding set, ids, filter, then the rest: the filter needs CAP_SYS_ADMIN for a moment longer, and nothing after it but capset.

    With no_new_privs it needs nothing: see `filter_last`.
    """
    sets: Mapping[str, Any] = start.process.get("capabilities") or {}
    bounding, permitted, inheritable, ambient, effective = (
        credentials.mask(sets.get(kind) or ()) for kind in ("bounding", "permitted", "inheritable", "ambient", "effective")
    )
    calls.drop_bounding(bounding)
    calls.prctl(credentials.PR_SET_KEEPCAPS, 1)
    calls.setgroups(who.groups)
    calls.setresgid(who.gid)
    calls.setresuid(who.uid)
    calls.prctl(process.PR_SET_DUMPABLE, 0)  # a change of ids sets it to what the host's fs.suid_dumpable says
    available = calls.permitted()
    permitted &= bounding & available
    inheritable &= available
    ambient &= inheritable & permitted
    effective &= permitted
    if who.uid:
        permitted = effective = ambient
    if start.process.get("noNewPrivileges"):
        calls.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    elif start.program:
        needed = (permitted | credentials.SYS_ADMIN) & available
        calls.capset(effective=needed, permitted=needed, inheritable=inheritable)
        calls.seccomp(start.program, start.program_flags)
    calls.capset(effective=effective, permitted=permitted, inheritable=inheritable)
    calls.raise_ambient(ambient)


def _checked(name: str, quoted: str) -> str:
    """The path of a program that was asked for by path."""
    try:
        status = os.stat(name)
    except OSError as error:
        raise StartFailure(126 if error.errno == errno.EACCES else 127, f"exec: {quoted}: stat {name}: {lowered(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise StartFailure(126, f"exec: {quoted}: is a directory: permission denied")
    if not _is_executable(name):
        raise StartFailure(126, f"exec: {quoted}: permission denied")
    return name


def _is_executable(path: str) -> bool:
    return os.access(path, os.X_OK, effective_ids=True)
