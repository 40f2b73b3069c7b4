"""A first process made ahead of time: cloned, warm, waiting for its orders.

Cloning a Python process costs milliseconds, most of them page faults. The zygote keeps one monitor ready, and that monitor one such child,
so a start finds both warm, and they prepare at the same time. The child has new pid, ipc and uts namespaces, and a mount namespace to go
to once the root file system is there (`stage`); the network namespace comes with the order. With cgroup v1 it is in a control group
already, which has the limits that most containers have and gets the container's name when it is known: making one takes a directory in
each hierarchy, and a name is soon changed. Version 2 has one hierarchy, and no other names.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wherry.kernel import cgroup, limits, namespace, process
from wherry.runtime import ahead, becoming, channel, defaults, init, plan, rehearsal, stage
from wherry.runtime.failure import StartFailure, words
from wherry.runtime.steps import Sandbox

FLAGS = namespace.CLONE_NEWPID | namespace.CLONE_NEWIPC | namespace.CLONE_NEWUTS
_DESCRIPTORS = 4  # of an order: filter, network namespace, gate, standard input
_LIMITS: dict[str, Any] = {"devices": defaults.device_rules(), "pids": {"limit": defaults.PIDS_LIMIT}}
_LATER = namespace.CLONE_NEWNS | namespace.CLONE_NEWNET


class Spare:
    """The waiting child, as its parent sees it."""

    def __init__(self, groups: cgroup.Hierarchies, group: str, nest: socket.socket, ground_fd: int) -> None:
        """``group``: a control group to make for it, "" for none.  ``nest``: the parent's alone.  ``ground_fd``: see `stage`."""
        self._groups = groups
        self._group = "" if groups.v2 else group
        self._ordered = False
        self.report, theirs = channel.pair()
        pipes = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        self.outputs: tuple[int, ...] = (pipes[0][0], pipes[1][0])  # what the program will write can be read here: stdout, stderr
        inputs = pipes[0][1], pipes[1][1]
        self.pid, self.pidfd = process.clone(FLAGS)
        if self.pid == 0:
            for inherited in (self.report, nest):
                inherited.close()
            for fd in self.outputs:
                os.close(fd)
            _wait(theirs, groups, self._group, inputs, ground_fd)
        theirs.close()
        for fd in inputs:
            os.close(fd)

    @staticmethod
    def suits(birth: plan.Birth) -> bool:
        """Whether a launch wants exactly the namespaces that a spare can give."""
        flags = birth.clone_flags
        return not birth.pid_namespace and flags & FLAGS == FLAGS and not flags & ~(FLAGS | _LATER)

    def order(self, body: bytes, launched: Sequence[int]) -> bool:
        """Let the child become the container's first process.  False when somebody killed it.

        ``body``: what it needs, as it came; ``launched``: filter, network namespace, gate, standard input, each -1 for none. It answers
        on ``report``, as any first process does.
        """
        facts = bytes([fd >= 0 for fd in launched])
        try:
            channel.send_encoded(self.report, facts + body, [fd for fd in launched if fd >= 0])
        except channel.Closed:
            return False
        self._ordered = True
        return True

    def dismiss(self) -> None:
        """It is not needed; `discard` must follow, later: its namespaces take milliseconds to end."""
        self.report.close()
        for fd in self.outputs:
            os.close(fd)
        self.outputs = ()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def discard(self, *, runs: bool = False) -> None:
        """Clear away what the container did not take: the child, gone when this returns, and the control group.

        ``runs``: its program does, so the child has taken all of the group or nothing.
        """
        if not self._ordered:
            self.dismiss()
            process.end(self.pidfd)
        if self._group and not (runs and cgroup.is_absent(self._groups, self._group)):
            cgroup.remove(self._groups, self._group)


def _further(resources: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``resources`` ask for beyond `_LIMITS`; None when these are no part of it."""
    rules, usual = resources.get("devices") or [], _LIMITS["devices"]
    if rules[: len(usual)] != usual or "pids" not in resources:
        return None
    rest = {**resources, "devices": rules[len(usual) :], "pids": resources["pids"] if resources["pids"] != _LIMITS["pids"] else {}}
    return {key: value for key, value in rest.items() if value}


def _make_group(groups: cgroup.Hierarchies, group: str) -> bool:
    try:
        cgroup.create(groups, group)
        limits.apply(groups, group, _LIMITS)
        cgroup.join(groups, group)
    except OSError:  # whoever starts a container will learn why
        return False
    return True


class _Made:
    """The mounts that a start finds: on a stage, or, where there is none, each by itself and mounted nowhere."""

    def __init__(self, usual: plan.Plan, groups: cgroup.Hierarchies, group: str, ground_fd: int) -> None:
        self._groups = groups
        self._stage = stage.make(usual, groups, group, ground_fd) if ground_fd >= 0 else None
        self._trees = ahead.make(usual) if self._stage is None else {}
        if ground_fd >= 0:
            os.close(ground_fd)

    def settle(self, planned: plan.Plan, in_group: bool) -> tuple[plan.Plan, Sandbox]:
        """Leave the namespaces that are left late; what of the plan is still to be done, and with what."""
        flags = planned.birth.clone_flags & _LATER
        if self._stage is not None:
            if (steps := self._stage.arrange(planned, in_group=in_group)) is not None:
                namespace.unshare(flags & ~namespace.CLONE_NEWNS)
                return replace(planned, steps=steps), self._stage.sandbox(in_group=in_group)
            self._stage.strike()
        namespace.unshare(flags)
        return planned, Sandbox(self._groups, in_group=in_group, ahead=ahead.suiting(self._trees, planned))


def _take_group(groups: cgroup.Hierarchies, group: str, path: str, resources: Mapping[str, Any]) -> bool:
    """Let ``path`` be the group of a container, with its limits; True when this process is in it already.

    That is so for ``group``, which was made ahead ("": none), where it lies beside ``path`` and its limits are a part of those wanted.
    Done by this process and not by its parent: the pages that one writes to stay its own as long as the container runs.
    """
    if not path:
        return False
    rest = _further(resources) if group and os.path.dirname(path) == os.path.dirname(group) else None
    if rest is not None:
        try:
            cgroup.rename(groups, group, path)
        except OSError:  # the name is taken
            rest = None
    if rest is None:
        cgroup.create(groups, path)
    limits.apply(groups, path, resources if rest is None else rest)
    return rest is not None


def begin(
    body: bytes,
    passed: Sequence[int],
    stdio: tuple[int, ...],
    report: socket.socket,
    groups: cgroup.Hierarchies,
    group: str = "",
    settle: Callable[[plan.Plan, bool], tuple[plan.Plan, Sandbox]] | None = None,
) -> None:
    """The life of a container's first process from its orders on.  Never returns.

    ``body``: a launch, encoded; ``passed``: filter, network namespace, gate, each -1 for none; ``group``: the control group that was made
    for it ahead; ``settle``: gives what is left of the plan.
    """
    program_fd, netns_fd, gate_fd = passed
    try:
        message = json.loads(body)
        planned = plan.make(message, netns_fd=netns_fd)
        in_group = _take_group(groups, group, planned.birth.cgroups_path, message["config"]["linux"].get("resources") or {})
        planned, sandbox = settle(planned, in_group) if settle is not None else (planned, Sandbox(groups, in_group=in_group))
        start = becoming.describe_start(message, stdio, program_fd, gate_fd)
    except BaseException as error:  # noqa: BLE001 -- the edge of a forked child: everything is reported, nothing may unwind further
        init.report_failure(report, StartFailure(128, words(error)) if isinstance(error, OSError | ValueError) else error)
        os._exit(1)
    init.run_container(planned, start, report, sandbox)


def _wait(report: socket.socket, groups: cgroup.Hierarchies, group: str, outputs: Sequence[int], ground_fd: int) -> None:
    """The child's life until it knows what it is for.  ``outputs``: its stdout and stderr, unless it gets a terminal.  Never returns."""
    try:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.set_name("wherry-spare")
        made_group = group if group and _make_group(groups, group) else ""
        made = _Made(rehearsal.plan_start(), groups, made_group, ground_fd)
        order, fds = channel.receive_encoded(report)
    except BaseException:  # noqa: BLE001 -- the edge of a forked child whose parent is gone: there is nobody to tell
        os._exit(1)
    *passed, stdin_fd = (fds.pop(0) if is_there else -1 for is_there in order[:_DESCRIPTORS])
    begin(order[_DESCRIPTORS:], passed, (stdin_fd, *outputs), report, groups, made_group, made.settle)
