"""A first process made ahead of time: cloned, warm, waiting for its orders.

Cloning a Python process costs milliseconds, most of them page faults. The zygote keeps one monitor ready, and that monitor one such child,
so a start finds both warm. The child has new pid, ipc and uts namespaces; the mount and network namespaces are made when the order comes,
since they must show the host as it is then. With cgroup v1 it is in a control group already, which has the limits that most containers
have and gets the container's name when it is known: making one takes a directory in each hierarchy, and a name is soon changed. Version 2
has one hierarchy, and no other names.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.kernel import cgroup, limits, namespace, process
from wherry.runtime import ahead, channel, defaults, init, plan, rehearsal
from wherry.runtime.failure import StartFailure
from wherry.runtime.steps import Sandbox

FLAGS = namespace.CLONE_NEWPID | namespace.CLONE_NEWIPC | namespace.CLONE_NEWUTS
_MADE, _NOT_MADE = b"+", b"-"
_LIMITS: dict[str, Any] = {"devices": defaults.device_rules(), "pids": {"limit": defaults.PIDS_LIMIT}}
_LATER = namespace.CLONE_NEWNS | namespace.CLONE_NEWNET


class Spare:
    """The waiting child, as its parent sees it."""

    def __init__(self, groups: cgroup.Hierarchies, group: str, nest: socket.socket) -> None:
        """``group``: a control group to make for it, "" for none.  ``nest``: the parent's alone."""
        self._groups = groups
        self._group = "" if groups.v2 else group
        self._ordered = False
        self._made = b""
        self._orders, theirs = channel.pair()
        self.pid, self.pidfd = process.clone(FLAGS)
        if self.pid == 0:
            self._orders.close()
            nest.close()
            _wait(theirs, groups, self._group)
        theirs.close()

    @staticmethod
    def suits(birth: plan.Birth) -> bool:
        """Whether a launch wants exactly the namespaces that a spare can give."""
        flags = birth.clone_flags
        return not birth.pid_namespace and flags & FLAGS == FLAGS and not flags & ~(FLAGS | _LATER)

    def give_group(self, path: str, resources: Mapping[str, Any]) -> dict[str, Any] | None:
        """Let its control group be ``path``, with the limits that a container most often has.

        Returns what of an OCI ``linux.resources`` object the group does not have yet. None when there is no group, its name is taken or
        elsewhere, or other limits are wanted than those and more; nothing has changed then.
        """
        if not self._group or os.path.dirname(path) != os.path.dirname(self._group):
            return None
        rest = _further(resources)
        if rest is None or not self._is_made():
            return None
        try:
            cgroup.rename(self._groups, self._group, path)
        except OSError:
            return None
        self._group = ""
        return rest

    def order(self, body: bytes, launched: Sequence[int], made: Sequence[int]) -> bool:
        """Let the child become the container's first process.  False when somebody killed it.

        ``body``: what it needs, as it came; ``launched``: filter, network namespace, gate, each -1 for none; ``made``: the channel for
        its report, then its standard streams.
        """
        if self._group:
            self._is_made()
        facts = bytes([not self._group, *(fd >= 0 for fd in launched)])
        try:
            channel.send_encoded(self._orders, facts + body, [*(fd for fd in launched if fd >= 0), *made])
        except channel.Closed:
            return False
        self._orders.close()
        self._ordered = True
        return True

    def _is_made(self) -> bool:
        """Whether it could make its control group.  To be asked before the channel is closed: unheard words break it for the child."""
        if not self._made:
            self._made = self._orders.recv(1)
        return self._made == _MADE

    def dismiss(self) -> None:
        """It is not needed; `discard` must follow, later: its namespaces take milliseconds to end."""
        self._orders.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def discard(self) -> None:
        """Clear away what the container did not take: the child, gone when this returns, and the control group."""
        if not self._ordered:
            self.dismiss()
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            os.close(self.pidfd)
        if self._group:
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


def _wait(orders: socket.socket, groups: cgroup.Hierarchies, group: str) -> None:
    """The child's life until it knows what it is for.  Never returns."""
    try:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.set_name("wherry-spare")
        if group:  # made here and not by the parent: what that writes to stays its own, page by page, as long as the container runs
            orders.send(_MADE if _make_group(groups, group) else _NOT_MADE)
        made = ahead.make(rehearsal.plan_start())
        order, fds = channel.receive_encoded(orders)
    except BaseException:  # noqa: BLE001 -- the edge of a forked child whose parent is gone: there is nobody to tell
        os._exit(1)
    orders.close()
    in_group = bool(group and order[0])
    program_fd, netns_fd, gate_fd = (fds.pop(0) if is_there else -1 for is_there in order[1:4])
    report = socket.socket(fileno=fds.pop(0))
    message = json.loads(order[4:])
    try:
        planned = plan.make(message, netns_fd=netns_fd)
        trees = ahead.suiting(made, planned)
        namespace.unshare(planned.birth.clone_flags & _LATER)
    except (OSError, StartFailure) as error:
        init.report_failure(report, error)
        os._exit(1)
    start = init.describe_start(message, tuple(fds), program_fd, gate_fd)
    init.run_container(planned, start, report, Sandbox(groups, in_group=in_group, ahead=trees))
