"""A first process made before its container is known: in the namespaces that nearly every container has, waiting to be told the rest.

To make it, and the pages that it writes to its own, is a third of the time of a whole `run`. It expects a container like the one before:
that one's launch is planned while it waits, and the file systems are made. Another launch is planned when it comes, and takes of the file
systems what it wants likewise.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from wherry.bundle import gate
from wherry.kernel import cgroup, namespace, netns, process
from wherry.runtime import ahead, channel, filters, init, plan, rehearsal, users
from wherry.runtime.becoming import Start
from wherry.runtime.failure import StartFailure
from wherry.runtime.steps import Key, Sandbox

EARLY = namespace.CLONE_NEWPID | namespace.CLONE_NEWIPC | namespace.CLONE_NEWUTS | namespace.CLONE_NEWNET
_LATE = namespace.CLONE_NEWNS  # shows the mounts of the moment
_SEPARATOR = b"\n"  # JSON as we write it has no line ends


class Nest:
    """A child of ours that forks the cradles, as children of ours too: a fork would share all our own pages again, and each is then
    copied when it is written to.

    ``likely``: the launch that the next cradle expects, encoded, or b"".
    """

    def __init__(self) -> None:
        self.likely = b""
        self._orders, theirs = channel.pair()
        self.pid, pidfd = process.clone(0)
        if self.pid == 0:
            process.close_others(theirs.fileno())
            _breed(theirs)
        theirs.close()
        os.close(pidfd)

    def cradle(self, compiler: filters.Compiler) -> Cradle:
        """Raises channel.Closed when the nest is gone."""
        ours, theirs = channel.pair()
        with theirs:
            channel.send_encoded(self._orders, self.likely or _SEPARATOR, [theirs.fileno()])
        message, (pidfd,) = channel.receive(self._orders)
        return Cradle(message["pid"], pidfd, ours, compiler, self)


class Cradle:
    """Belongs to the process whose child it is, and ends with it.  ``compiler``: what that process knows of filters already."""

    def __init__(self, pid: int, pidfd: int, orders: socket.socket, compiler: filters.Compiler, nest: Nest) -> None:
        self.pid, self.pidfd, self.compiler = pid, pidfd, compiler
        self._orders, self._nest = orders, nest

    def suits(self, config: Mapping[str, Any]) -> bool:
        """Whether it can be this container's."""
        return has_usual_namespaces(config["linux"])

    def order(self, launch: Mapping[str, Any], start: Start, found: cgroup.Hierarchies, report: int) -> None:
        """Tell it what it is for; it goes on as any first process does, with ``report`` to its parent."""
        config = launch["config"]
        message = {
            "group": config["linux"]["cgroupsPath"],
            "flags": start.program_flags,
            "has_program": bool(start.program),
            "groups": {"v1": found.v1, "v2": found.v2},
        }
        linux = {**config["linux"], "cgroupsPath": "", "resources": None, "seccomp": None}  # what others do, or differs each time
        self._nest.likely = channel.encode({**launch, "config": {**config, "annotations": None, "linux": linux}})
        fds: list[int] = [report, *(start.stdio or (0, 1, 2))]
        program = -1
        try:
            if start.program:
                program = os.memfd_create("filter", os.MFD_CLOEXEC)
                os.write(program, start.program)
                fds.append(program)
            channel.send_encoded(self._orders, channel.encode(message) + _SEPARATOR + self._nest.likely, fds)
        finally:
            if program >= 0:
                os.close(program)
        self._orders.close()

    def discard(self) -> None:
        """It is not needed."""
        self._orders.close()
        process.end(self.pidfd)


def has_usual_namespaces(linux: Mapping[str, Any]) -> bool:
    """Whether a container has exactly those namespaces of its own that are made ahead, one of mounts, and perhaps one of control groups."""
    spaces = linux.get("namespaces") or ()
    if any(one.get("path") for one in spaces) or not {one["type"] for one in spaces} <= plan.NAMESPACES.keys():
        return False
    flags = sum(plan.NAMESPACES[kind] for kind in {one["type"] for one in spaces})
    return flags & ~namespace.CLONE_NEWCGROUP == EARLY | _LATE


def _breed(orders: socket.socket) -> NoReturn:
    try:
        while True:
            likely, fds = channel.receive_encoded(orders)
            line = socket.socket(fileno=fds[0])
            pid, pidfd = process.clone(EARLY | process.CLONE_PARENT)
            if pid == 0:
                orders.close()
                _lie(line, likely)
            line.close()
            channel.send(orders, {"pid": pid}, [pidfd])
            os.close(pidfd)
    except BaseException:  # noqa: BLE001 -- the edge of a forked child: who waits for its answer hears of its end
        os._exit(0)


@dataclass(frozen=True, slots=True)
class _Expected:
    """A launch, encoded and decoded, what comes of it, and its file systems."""

    body: bytes
    launch: Mapping[str, Any]
    planned: plan.Plan
    made: dict[Key, int]


def _expect(body: bytes) -> _Expected:
    """Made ready for a launch, or for one like most.  It also makes the pages private that the start will write to."""
    try:
        launch = json.loads(body) if body != _SEPARATOR else {}
        planned = plan.make(launch, bundle=True) if launch else rehearsal.plan_start()
    except StartFailure:  # whoever wants it again will learn why
        body, launch, planned = b"", {}, rehearsal.plan_start()
    plan.in_group(planned, "/")  # as it will be
    netns.raise_loopback()
    root_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    users.home(root_fd, 0)
    os.close(root_fd)
    return _Expected(body, launch, planned, ahead.make(planned, ahead.KINDS | {"sysfs"}))


def _lie(orders: socket.socket, likely: bytes) -> NoReturn:
    try:
        expected = _expect(likely)
        data, fds = channel.receive_encoded(orders)
    except BaseException:  # noqa: BLE001 -- the edge of a forked child whose parent is gone: there is nobody to tell
        os._exit(0)
    orders.close()
    report = socket.socket(fileno=fds.pop(0))
    head, body = data.split(_SEPARATOR)
    message = json.loads(head)
    try:
        program = filters.read_program(fds[3]) if message["has_program"] else b""
        known = body == expected.body
        launch = expected.launch if known else json.loads(body)
        planned = plan.in_group(expected.planned if known else plan.make(launch, bundle=True), message["group"])
        trees = ahead.suiting(expected.made, planned)
        namespace.unshare(planned.birth.clone_flags & ~EARLY)
    except (OSError, ValueError, StartFailure) as error:
        init.report_failure(report, error)
        os._exit(1)
    start = gate.start(launch["config"]["process"], program, message["flags"], fds[:3])
    gate.live(launch["config"], planned, Sandbox(cgroup.Hierarchies(**message["groups"]), ahead=trees), start, report)
