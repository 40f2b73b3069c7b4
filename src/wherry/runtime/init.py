"""A container's first process, or an exec's: runs the plan, becomes the user, executes the program.

Runs in a child cloned by the monitor, beside it until both are ready, and ends in execve or ``os._exit``. A failure is one message on the
channel; when the channel just closes, the program is executing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wherry.kernel import cgroup, credentials, files, namespace, process, scheduling, seccomp, terminal
from wherry.runtime import channel, defaults, filters, labels, users
from wherry.runtime.failure import StartFailure, lowered, words
from wherry.runtime.plan import Plan
from wherry.runtime.steps import AdjustOomScore, Sandbox

if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # the builtin half of signal: the enums of the other write to pages that forks share

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_EXEC_FAILED = 255
_EXEC_NAMESPACES = (
    namespace.CLONE_NEWNS | namespace.CLONE_NEWUTS | namespace.CLONE_NEWIPC | namespace.CLONE_NEWNET | namespace.CLONE_NEWCGROUP
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a first process needs besides its plan.  ``stdio``: three descriptors (-1: the null device), or () with a terminal.

    ``program``: the filter or b"".
    ``gate_fd``: read before privileges go; no byte there means that what the program was to wait for, its network, has failed.
    ``awaits_parent``: then a byte is read from the channel of the report too, which the parent writes once it is ready itself.
    For a bundle: ``exact``: ids and groups are what the config says, whatever the image's files add; ``outlives``: its parent's end is not
    its own; ``preserve_fds``: how many descriptors from 3 on the program inherits; ``limit`` has another set the resource limits, who may
    do more; ``rendezvous`` is called before the root is entered, ``gate`` before privileges go, and may put another channel in the place
    of the report's.
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


def run_container(plan: Plan, start: Start, report: socket.socket, sandbox: Sandbox) -> None:
    """Body of a container's first process.  ``sandbox``: what there is of it already.  Never returns."""
    try:
        os.umask(0)
        sandbox.at_hooks = start.rendezvous
        if start.keyring:
            process.join_session_keyring("_ses")
        for step in plan.steps:
            try:
                step.execute(sandbox)
            except OSError as error:
                raise StartFailure(128, f"{step.describe()}: {words(error)}") from error
        if plan.new_network:
            raise_loopback()
        if start.terminal:
            channel.send(report, {"terminal": True}, [sandbox.master_fd])
        _become(start, report, sandbox.slave_fd, sandbox.labels)
    except BaseException as error:  # noqa: BLE001 -- the edge of a forked child: everything is reported, nothing may unwind further
        report_failure(report, error)
    os._exit(_EXEC_FAILED)


def run_exec(
    pidfd: int,
    cgroups_path: str,
    groups: cgroup.Hierarchies,
    start: Start,
    size: tuple[int, int],
    report: socket.socket,
    *,
    kinds: int = _EXEC_NAMESPACES,
) -> None:
    """Body of an exec's process, already born in the container's pid namespace.  ``kinds``: the namespaces to enter.  Never returns."""
    try:
        os.umask(0)
        process.join_session_keyring("_ses")  # not the daemon's
        if cgroups_path:
            cgroup.join(groups, cgroups_path)
        if (affinity := (start.process.get("execCPUAffinity") or {}).get("final")) and start.exact:
            os.sched_setaffinity(0, scheduling.cpus(affinity))
        if (score := start.process.get("oomScoreAdj")) is not None:
            AdjustOomScore(score, start.exact).execute(Sandbox(groups))
        named = labels.open_files(start.process.get("apparmorProfile") or "", start.process.get("selinuxLabel") or "")
        namespace.setns(pidfd, kinds)
        os.close(pidfd)
        slave = -1
        if start.terminal:
            root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
            pts_fd = files.open_beneath(root_fd, "dev/pts", os.O_PATH | os.O_DIRECTORY)
            master, slave, _ = terminal.open_pair(pts_fd)
            if all(size):
                terminal.set_size(master, height=size[0], width=size[1])
            channel.send(report, {"terminal": True}, [master])
        _become(start, report, slave, named)
    except BaseException as error:  # noqa: BLE001 -- the edge of a forked child
        report_failure(report, error)
    os._exit(_EXEC_FAILED)


def raise_loopback() -> None:
    """Set ``lo`` of this network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def find_program(name: str, path: str) -> str:
    """The file to execute, found as Go's exec.LookPath does.  Raises StartFailure with Docker's words and code."""
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if "/" in name:
        try:
            status = os.stat(name)
        except OSError as error:
            text = lowered(error)
            raise StartFailure(126 if error.errno == errno.EACCES else 127, f"exec: {quoted}: stat {name}: {text}") from None
        if stat.S_ISDIR(status.st_mode):
            raise StartFailure(126, f"exec: {quoted}: is a directory: permission denied")
        if not _is_executable(name):
            raise StartFailure(126, f"exec: {quoted}: permission denied")
        return name
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate) and _is_executable(candidate):
            return candidate
    raise StartFailure(127, f"exec: {quoted}: executable file not found in $PATH")


def _become(start: Start, report: socket.socket, slave_fd: int, names: Sequence[tuple[int, str]] = ()) -> None:
    wanted = start.process
    root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    who = _identity(root_fd, start)
    os.close(root_fd)
    environment = environment_of(wanted.get("env") or (), who.home)
    os.setsid()
    _connect(start.stdio, slave_fd, who.uid)
    enter_directory(wanted.get("cwd") or "/")
    _limit(start)
    mask = (wanted.get("user") or {}).get("umask")
    os.umask(0o022 if mask is None else mask)
    process.close_range(3 + start.preserve_fds, cloexec=True)
    _schedule(wanted)
    process.default_signals()
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    arguments = list(wanted["args"])
    if start.gate is not None:
        find_program(arguments[0], environment.get("PATH", defaults.PATH.partition("=")[2]))
        start.gate(report)
    if start.gate_fd >= 0 and not os.read(start.gate_fd, 1):
        raise StartFailure(128, "the network of the container was not made")
    if start.awaits_parent and not report.recv(1):
        raise StartFailure(128, "the monitor gave up")
    _drop_privileges(wanted, who, start.program, start.program_flags)
    if not start.outlives:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    program = find_program(arguments[0], environment.get("PATH", defaults.PATH.partition("=")[2]))
    labels.write(names)
    if start.program and wanted.get("noNewPrivileges"):
        seccomp.load(start.program, start.program_flags)
    if start.reaper:
        report.close()
        _reap(program, arguments, environment)
    _execute(program, arguments, environment)


def _limit(start: Start) -> None:
    if start.limit is not None:
        start.limit()
        return
    for limit in start.process.get("rlimits") or ():
        try:
            credentials.set_rlimit(limit["type"], limit["soft"], limit["hard"], exact=start.exact)
        except (OSError, ValueError) as error:
            raise StartFailure(128, f"error setting rlimit {limit['type']}: {words(error)}") from None


def _identity(root_fd: int, start: Start) -> users.Identity:
    user: Mapping[str, Any] = start.process.get("user") or {}
    if start.exact:
        uid = user.get("uid") or 0
        groups = tuple(user.get("additionalGids") or ())
        return users.Identity(uid=uid, gid=user.get("gid") or 0, groups=groups, home=users.home(root_fd, uid))
    if not start.user and user:
        identity = users.resolve(*users.read(root_fd), str(user.get("uid") or 0), start.groups)
        gid = user.get("gid") or 0
        extra = tuple(user.get("additionalGids") or ())
        groups = tuple(dict.fromkeys((gid, *extra, *(identity.groups if not user.get("uid") and not gid else ()))))
        return users.Identity(uid=user.get("uid") or 0, gid=gid, groups=groups, home=identity.home)
    return users.resolve(*users.read(root_fd), start.user, start.groups)


def environment_of(pairs: Any, home: str) -> dict[str, str]:
    environment = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key and equals:
            environment[key] = value
    if not environment.get("HOME"):
        environment["HOME"] = home
    return environment


def _connect(stdio: tuple[int, ...], slave_fd: int, uid: int) -> None:
    """Descriptors 0 to 2; the user may open them again by /dev/stdout, so they are his."""
    if slave_fd >= 0:
        terminal.make_controlling(slave_fd)
        stdio = (slave_fd, slave_fd, slave_fd)
    for number, fd in enumerate(stdio):
        if fd < 0 or is_null(fd):
            own = own_null()  # the host's node would be the program's to change: its mode, its owner
            os.dup2(own, number, inheritable=True)
            os.close(own)
            continue
        os.dup2(fd, number, inheritable=True)
        if uid:
            with contextlib.suppress(OSError):
                os.fchown(number, uid, -1)


def is_null(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def own_null() -> int:
    """The container's /dev/null; where it has something else in that place, the end of a pipe that nobody writes to."""
    with contextlib.suppress(OSError):
        fd = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if is_null(fd):
            os.set_blocking(fd, True)
            return fd
        os.close(fd)
    readable, writable = os.pipe2(os.O_CLOEXEC)
    os.close(writable)
    return readable


def enter_directory(cwd: str) -> None:
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


def _schedule(wanted: Mapping[str, Any]) -> None:
    try:
        if scheduler := wanted.get("scheduler"):
            flags = sum(scheduling.FLAGS[one] for one in scheduler.get("flags") or ())
            numbers = {key: scheduler.get(key) or 0 for key in ("nice", "priority", "runtime", "deadline", "period")}
            scheduling.set_scheduler(scheduling.POLICIES[scheduler["policy"]], flags=flags, **numbers)
        if io := wanted.get("ioPriority"):
            scheduling.set_io_priority(scheduling.IO_CLASSES[io["class"]], io.get("priority") or 0)
    except KeyError as unknown:
        raise StartFailure(128, f"{unknown.args[0]} is not a scheduling policy, flag or I/O class of this system") from None
    except OSError as error:
        raise StartFailure(128, f"process.scheduler or process.ioPriority: {words(error)}") from None


def _drop_privileges(wanted: Mapping[str, Any], who: users.Identity, program: bytes, flags: int) -> None:
    """Bounding set, ids, filter, then the rest: the filter needs CAP_SYS_ADMIN for a moment longer, and nothing after it but capset.

    With no_new_privs it needs nothing, and the caller loads it at the very end, so that it may refuse all of this.
    """
    sets: Mapping[str, Any] = wanted.get("capabilities") or {}
    bounding = credentials.mask(sets.get("bounding") or ())
    permitted = credentials.mask(sets.get("permitted") or ()) & bounding
    credentials.drop_bounding(bounding)
    credentials.keep_capabilities()
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    process.prctl(process.PR_SET_DUMPABLE, 0)  # a change of ids sets it to what the host's fs.suid_dumpable says
    available = credentials.capget()[1]
    permitted &= available
    inheritable = credentials.mask(sets.get("inheritable") or ()) & available
    ambient = credentials.mask(sets.get("ambient") or ()) & inheritable & permitted
    effective = credentials.mask(sets.get("effective") or ()) & permitted
    if who.uid:
        permitted = effective = ambient
    if wanted.get("noNewPrivileges"):
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    elif program:
        needed = (permitted | credentials.SYS_ADMIN) & available
        credentials.capset(effective=needed, permitted=needed, inheritable=inheritable)
        seccomp.load(program, flags)
    credentials.capset(effective=effective, permitted=permitted, inheritable=inheritable)
    credentials.raise_ambient(ambient)


def _execute(program: str, arguments: list[str], environment: dict[str, str]) -> None:
    try:
        os.execve(program, arguments, environment)
    except OSError as error:
        os.write(2, f"exec {program}: {lowered(error)}\n".encode(errors="surrogateescape"))
    except ValueError as error:  # a null byte
        os.write(2, f"exec {program}: {error}\n".encode(errors="surrogateescape"))
    os._exit(_EXEC_FAILED)


def _reap(program: str, arguments: list[str], environment: dict[str, str]) -> None:
    """``--init``: stay as the first process, pass signals on, collect orphans, end as the program ends.  Never returns."""
    every = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, every)
    title_area = process.argument_area()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        if os.isatty(0):
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            with contextlib.suppress(OSError):
                os.tcsetpgrp(0, os.getpgrp())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _execute(program, arguments, environment)
    process.set_name("docker-init")
    process.set_title(title_area, " ".join(["/sbin/docker-init", "--", *arguments]))
    while True:
        received = signal.sigwait(every)
        if received != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                os.kill(child, received)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    os._exit(code if code >= 0 else 128 - code)


def _is_executable(path: str) -> bool:
    return os.access(path, os.X_OK, effective_ids=True)


def report_failure(report: socket.socket, error: BaseException) -> None:
    """Say on the channel why the program will not run."""
    failure = error if isinstance(error, StartFailure) else StartFailure(128, f"{type(error).__name__}: {error}")
    with contextlib.suppress(channel.Closed, OSError):
        channel.send(report, {"code": failure.code, "message": failure.message, "complete": failure.complete})
        report.shutdown(socket.SHUT_RD)  # what is never read would break the channel for the other side, before it reads this
        report.setblocking(False)
        while report.recv(1):
            pass
