"""A container's first process, or an exec's: runs the plan, becomes the user, executes the program.

Runs in a child cloned by the monitor, beside it until both are ready, and ends in execve or ``os._exit``. A failure is one message on the
channel; when the channel just closes, the program is executing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wherry.kernel import cgroup, files, namespace, netns, process, scheduling, terminal
from wherry.runtime import becoming, channel, labels
from wherry.runtime.becoming import Program, Start
from wherry.runtime.calls import Own
from wherry.runtime.failure import StartFailure, lowered, words
from wherry.runtime.plan import Plan
from wherry.runtime.steps import AdjustOomScore, Sandbox

if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # the builtin half of signal: the enums of the other write to pages that forks share

_EXEC_FAILED = 255
_EXEC_NAMESPACES = (
    namespace.CLONE_NEWNS | namespace.CLONE_NEWUTS | namespace.CLONE_NEWIPC | namespace.CLONE_NEWNET | namespace.CLONE_NEWCGROUP
)


def run_container(plan: Plan, start: Start, report: socket.socket, sandbox: Sandbox) -> None:
    """Body of a container's first process.  ``sandbox``: what there is of it already.  Never returns."""
    try:
        os.umask(0)
        sandbox.at_hooks = start.rendezvous
        becoming.carry_out(plan, start, sandbox)
        if plan.new_network:
            netns.raise_loopback()
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
    directories: Sequence[str] = (),
) -> None:
    """Body of an exec's process, already born in the container's pid namespace.  Never returns.

    ``kinds``: the namespaces to enter; ``directories``: of control groups, instead of the container's.
    """
    try:
        os.umask(0)
        process.join_session_keyring()  # not the daemon's
        if directories:
            cgroup.join_directories(groups, directories)
        elif cgroups_path:
            cgroup.join_beside(groups, cgroups_path, pidfd)
        if affinity := (start.process.get("execCPUAffinity") or {}).get("final") if start.exact else None:
            _bind(affinity)
            start = replace(start, keeps_cpus=True)
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


def _become(start: Start, report: socket.socket, slave_fd: int, names: Sequence[tuple[int, str]]) -> None:
    """``names``: the labels that the program is to have, and the files to write them to."""

    def at_gate(program: Program) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        labels.write(names)  # before the gate: who creates a container hears of a label that there is not
        if start.gate is not None:
            next(program.files())
            start.gate(report)
        if start.gate_fd >= 0 and not os.read(start.gate_fd, 1):
            raise StartFailure(128, "the network of the container was not made")
        if start.awaits_parent and not report.recv(1):
            raise StartFailure(128, "the monitor gave up")
        if start.reaper:  # which stays: what the way here has opened is nobody's any more
            process.close_others(report.fileno())

    _schedule(start.process)
    calls = Own()
    program = becoming.become(calls, start, slave_fd, at_gate)
    file = next(program.files())
    becoming.filter_last(calls, start)
    if start.reaper:
        report.close()
        _reap(file, program)
    _execute(file, program)


def _bind(cpus: str) -> None:
    try:
        os.sched_setaffinity(0, scheduling.cpus(cpus))
    except (OSError, ValueError) as error:
        raise StartFailure(128, f"process.execCPUAffinity.final {cpus}: {words(error)}") from None


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


def _execute(file: str, program: Program) -> None:
    try:
        os.execve(file, program.arguments, program.environment)
    except OSError as error:
        os.write(2, f"exec {file}: {lowered(error)}\n".encode(errors="surrogateescape"))
    except ValueError as error:  # a null byte
        os.write(2, f"exec {file}: {error}\n".encode(errors="surrogateescape"))
    os._exit(_EXEC_FAILED)


def _reap(file: str, program: Program) -> None:
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
        _execute(file, program)
    process.set_name("docker-init")
    process.set_title(title_area, " ".join(["/sbin/docker-init", "--", *program.arguments]))
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


def report_failure(report: socket.socket, error: BaseException) -> None:
    """Say on the channel why the program will not run."""
    failure = error if isinstance(error, StartFailure) else StartFailure(128, f"{type(error).__name__}: {error}")
    with contextlib.suppress(channel.Closed, OSError):
        channel.send(report, {"code": failure.code, "message": failure.message, "complete": failure.complete})
        report.shutdown(socket.SHUT_RD)  # what is never read would break the channel for the other side, before it reads this
        report.setblocking(False)
        while report.recv(1):
            pass
