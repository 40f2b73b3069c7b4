"""A monitor's process comes into being: a container's first one, or an exec's, or one that another runtime makes.

It prepares itself beside its monitor, and its program does not run before both are ready.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wherry.kernel import cgroup, namespace, process
from wherry.runtime import becoming, channel, init, plan
from wherry.runtime.failure import StartFailure
from wherry.runtime.spare import Spare, begin
from wherry.runtime.streams import Streams

if TYPE_CHECKING:
    from wherry.runtime import foreign

_GO = b"!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A request: the monitor's message, what the first process needs, in JSON, and descriptors, -1 for none.

    ``target_pidfd``: of the container that an exec is in; ``forward_fds``: listening sockets; ``attachments``: clients' sockets, each with
    what it wants.
    """

    message: Mapping[str, Any]
    body: bytes = b""
    program_fd: int = -1
    netns_fd: int = -1
    gate_fd: int = -1
    target_pidfd: int = -1
    forward_fds: Sequence[int] = ()
    attachments: Sequence[tuple[int, Mapping[str, Any]]] = ()


@dataclass(frozen=True, slots=True)
class Newborn:
    """A process at work, before its program.  ``report``: the channel on which it says what becomes of it."""

    pid: int
    pidfd: int
    report: socket.socket

    def end(self) -> None:
        """Its program is not to run."""
        self.report.close()
        process.end(self.pidfd)

    def let_go(self, streams: Streams, oom_kills: Callable[[], int]) -> None:
        """Its monitor is ready: returns once its program runs.  Raises StartFailure; it is gone then.

        ``oom_kills``: how many in its control group ran out of memory.
        """
        with self.report as report:
            with contextlib.suppress(OSError):  # it has failed: why is read next
                report.send(_GO)
            while True:
                try:
                    message, fds = channel.receive(report)
                except channel.Closed:
                    break
                if "terminal" not in message:
                    process.end(self.pidfd)
                    raise StartFailure(message["code"], message["message"], complete=message["complete"])
                streams.take_terminal(fds[0])
        self._check_executed(oom_kills)

    def _check_executed(self, oom_kills: Callable[[], int]) -> None:
        """The channel of a report closes too when the process is killed.  Raises StartFailure then."""
        if not process.is_ending_unexecuted(self.pid):
            return
        ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code != os.CLD_EXITED:  # else its program could not be executed, and it said so to its clients
            why = "OOM-killed (memory limit too low?)" if oom_kills() else "killed before it executed its program"
            process.end(self.pidfd)
            raise StartFailure(128, why)


def begin_container(launched: Launched, birth: plan.Birth, streams: Streams, spare: Spare | None, groups: cgroup.Hierarchies) -> Newborn:
    """The first process: the one made ahead if it can be that.  It takes the descriptors of ``launched``."""
    stdin = streams.make_stdin()
    passed = (launched.program_fd, launched.netns_fd, launched.gate_fd)
    if spare is not None and spare.suits(birth) and spare.order(launched.body, (*passed, stdin)):
        newborn = Newborn(spare.pid, spare.pidfd, spare.report)
        streams.take_outputs(spare.outputs)
        _close(*passed, stdin)
        return newborn
    if spare is not None:
        spare.dismiss()
    stdio = streams.make_stdio(stdin)
    ours, report = channel.pair()
    pid, pidfd = _clone(birth)
    if pid == 0:
        ours.close()
        begin(launched.body, passed, stdio, report, groups)
    report.close()
    _close(*passed, stdin, *stdio[1:])
    return Newborn(pid, pidfd, ours)


def begin_exec(launched: Launched, streams: Streams, groups: cgroup.Hierarchies) -> Newborn:
    """A further process of a container.  It takes the descriptors of ``launched``."""
    message = launched.message
    stdio = streams.make_stdio(streams.make_stdin())
    ours, report = channel.pair()
    target = launched.target_pidfd
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    namespace.setns(target, namespace.CLONE_NEWPID)
    pid, pidfd = process.clone(0)
    if pid == 0:
        ours.close()
        height, width = message.get("console_size") or (0, 0)
        start = becoming.describe_start(message, stdio, launched.program_fd)
        init.run_exec(target, message.get("cgroups_path") or "", groups, start, (height, width), report)
    namespace.setns(own, namespace.CLONE_NEWPID)
    report.close()
    _close(own, target, launched.program_fd, *stdio)
    return Newborn(pid, pidfd, ours)


def run_foreign(launched: Launched, streams: Streams, groups: cgroup.Hierarchies) -> tuple[int, int, foreign.Container]:
    """What another runtime makes, its program running: pid and pidfd, and what is to be deleted at its end.  It takes descriptors too."""
    from wherry.runtime import foreign  # few containers have another runtime: the others share no pages with it

    stdin = streams.make_stdin()
    stdio = streams.make_stdio(stdin if stdin >= 0 else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    container = foreign.Container(json.loads(launched.body), groups)
    pid, pidfd, master = container.start(stdio, launched.netns_fd)
    if master >= 0:
        streams.take_terminal(master)
    _close(*stdio, launched.netns_fd, launched.gate_fd)
    return pid, pidfd, container


def _clone(birth: plan.Birth) -> tuple[int, int]:
    if birth.pid_namespace:
        fd = os.open(birth.pid_namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.setns(fd, namespace.CLONE_NEWPID)
        finally:
            os.close(fd)
    return process.clone(birth.clone_flags)


def _close(*fds: int) -> None:
    """Close those that are there."""
    for fd in fds:
        if fd >= 0:
            os.close(fd)
