"""A first process made ahead of time: cloned, warm, waiting for its orders.

Cloning a Python process costs milliseconds, most of them page faults. The zygote keeps one monitor ready, and that monitor one such child,
so a start finds both warm. The child has new pid, ipc and uts namespaces; the mount and network namespaces are made when the order comes,
since they must show the host as it is then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Sequence

from wherry.kernel import cgroup, namespace, process
from wherry.runtime import channel, init, plan, rehearsal
from wherry.runtime.failure import StartFailure

FLAGS = namespace.CLONE_NEWPID | namespace.CLONE_NEWIPC | namespace.CLONE_NEWUTS
_LATER = namespace.CLONE_NEWNS | namespace.CLONE_NEWNET


class Spare:
    """The waiting child, as its parent sees it."""

    def __init__(self, groups: cgroup.Hierarchies) -> None:
        self._orders, theirs = channel.pair()
        self.pid, self.pidfd = process.clone(FLAGS)
        if self.pid == 0:
            self._orders.close()
            _wait(theirs, groups)
        theirs.close()

    @staticmethod
    def suits(birth: plan.Birth) -> bool:
        """Whether a launch wants exactly the namespaces that a spare can give."""
        flags = birth.clone_flags
        return not birth.pid_namespace and flags & FLAGS == FLAGS and not flags & ~(FLAGS | _LATER)

    def order(self, body: bytes, program_fd: int, report: int, netns_fd: int, stdio: Sequence[int]) -> None:
        """Let the child become the container's first process.  ``body``: the launch's message as it came."""
        named = [fd for fd in (program_fd, netns_fd) if fd >= 0]
        channel.send_encoded(self._orders, bytes([program_fd >= 0, netns_fd >= 0]) + body, [report, *named, *stdio])
        self._orders.close()

    def dismiss(self) -> None:
        """It is not needed; `discard` must follow, later: its namespaces take milliseconds to end."""
        self._orders.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def discard(self) -> None:
        """It is not needed, and gone when this returns."""
        self.dismiss()
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)


def _wait(orders: socket.socket, groups: cgroup.Hierarchies) -> None:
    """The child's life until it knows what it is for.  Never returns."""
    try:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.set_name("wherry-spare")
        rehearsal.plan_start()
        order, fds = channel.receive_encoded(orders)
    except BaseException:  # noqa: BLE001 -- the edge of a forked child whose parent is gone: there is nobody to tell
        os._exit(1)
    orders.close()
    report = socket.socket(fileno=fds.pop(0))
    program_fd = fds.pop(0) if order[0] else -1
    netns_fd = fds.pop(0) if order[1] else -1
    message = json.loads(order[2:])
    try:
        planned = plan.make(message, netns_fd=netns_fd)
        namespace.unshare(planned.birth.clone_flags & _LATER)
    except (OSError, StartFailure) as error:
        init.report_failure(report, error)
        os._exit(1)
    init.run_container(planned, groups, init.describe_start(message, tuple(fds), program_fd), report)
