"""A small single-threaded interpreter that forks monitors.

Executed by the daemon before anything else. Everything a container start needs is imported and loaded here, once, and frozen, so a fork
shares it. It answers nothing: each request carries the channel on which its monitor talks to the daemon.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from wherry.kernel import cgroup, controlfiles, limits, process
from wherry.runtime import (
    becoming,
    birth,
    calls,
    channel,
    confinement,
    covers,
    devices,
    eventloop,
    filters,
    heap,
    init,
    monitor,
    mounting,
    rehearsal,
    spare,
    stage,
    steps,
    streams,
    tasks,
)
from wherry.runtime.birth import Launched
from wherry.runtime.defaults import SPARE_GROUP
from wherry.runtime.jsonlog import JsonLog
from wherry.runtime.logfile import Limits
from wherry.runtime.monitor import Monitor, prepare
from wherry.runtime.spare import Spare

_NAMES = {"task": "wherry-task", "parse": "wherry-parse"}

_HOT = (
    monitor,
    birth,
    streams,
    eventloop,
    channel,
    process,
    spare,
    cgroup,
    controlfiles,
    limits,
    init,
    becoming,
    calls,
    steps,
    mounting,
    stage,
    devices,
    covers,
)  # where most functions are a monitor's or a first process's
_START_MS = 50  # how long the next fork waits for a start; one that takes longer hardly keeps the processors busy
_FAREWELL_S = 10.0  # on a busy machine too they clear away before the daemon does
_OOM_SCORE = -999  # of zygote and monitors: a monitor's death is its container's; what they start has a score of its own


class Zygote:
    """Serves one daemon until it closes the channel."""

    def __init__(self, requests: socket.socket, above: str) -> None:
        """``above``: the control group in which groups are made ahead of time, "" for none."""
        self._requests = requests
        self._title_area = process.argument_area()  # in every fork too
        self._above = above
        self._compiler = filters.Compiler()
        self._groups = cgroup.find()
        self._nests: dict[bytes, tuple[socket.socket, str]] = {}  # to the monitors that wait, and their control groups
        self._starting: dict[int, socket.socket] = {}  # to monitors whose program does not run yet, by descriptor
        self._waiting = select.poll()

    def serve(self) -> None:
        self._ground_fd = stage.lay_ground()
        self._held = heap.fill_holes()
        heap.gather(self._rehearse_all, *_HOT)
        rehearsal.specialise(lambda: self._rehearse("wherry-zygote"))
        for files in (False, True):
            confinement.program(files=files)
        gc.collect()
        self._held += heap.fill_holes()
        gc.freeze()
        gc.disable()
        self._waiting.register(self._requests, select.POLLIN)
        while True:
            self._hatch_until_asked()
            try:
                body, fds = channel.receive_encoded(self._requests)
            except channel.Closed:
                self._leave()
                return
            try:
                self._dispatch(body, fds)
            except (ValueError, KeyError, OSError) as error:
                with contextlib.suppress(channel.Closed, OSError), socket.socket(fileno=os.dup(fds[0])) as control:
                    channel.send(control, {"event": "failed", "code": 128, "message": str(error)})
            finally:
                for fd in fds:
                    os.close(fd)

    def _rehearse_all(self) -> None:
        self._rehearse("wherry-zygote")
        rehearsal.plan_start()

    def _rehearse(self, name: str) -> None:
        """What a monitor does that touches nothing outside.  ``name``: the process's."""
        rehearsal.plan_birth()
        ours, theirs = channel.pair()
        with ours, theirs:
            channel.send(ours, {"event": "rehearsed", "pid": 0}, [theirs.fileno()])
            for fd in channel.receive(theirs)[1]:
                os.close(fd)
        process.set_name(name)
        log = JsonLog("/dev/null", Limits())
        log.write("stdout", b"rehearsed\n", 0)
        log.finish(0)
        Monitor(Launched(message={"op": "run"}), None, self._groups)
        cgroup.oom_kills(self._groups, "/rehearsal")

    def _dispatch(self, data: bytes, fds: list[int]) -> None:
        kind, order, profile = channel.split_request(data)
        passed = [*fds, self._compiler.open_program(profile)] if profile else fds
        if kind in self._nests:
            nest, group = self._nests.pop(kind)
            try:
                channel.send_encoded(nest, order, passed)
            except channel.Closed:  # it was killed
                nest.close()
                if group:
                    cgroup.end(self._groups, group)  # its first process dies with it, a moment later
            else:
                self._starting[nest.fileno()] = nest
                self._waiting.register(nest, 0)  # its end is told all the same
                return
        if self._fork():
            return
        _live(lambda: self._work(order, passed, None, None))

    def _hatch_until_asked(self) -> None:
        """Fork what the next requests need, but not while a start is under way, which would have less of the processors."""
        while missing := [kind for kind in (channel.RUN, channel.OTHER) if kind not in self._nests]:
            events = self._waiting.poll(_START_MS if self._starting else 0)
            for fd, _ in events:
                if fd == self._requests.fileno():
                    return
                self._let_go(fd)
            if not events:
                for fd in list(self._starting):
                    self._let_go(fd)
                self._hatch(missing[0])

    def _let_go(self, fd: int) -> None:
        self._waiting.unregister(fd)
        self._starting.pop(fd).close()

    def _hatch(self, kind: bytes) -> None:
        """Fork the next monitor ahead of its request; one for a container has a first process ready too."""
        ours, theirs = channel.pair()
        above = f"{self._above}/{SPARE_GROUP}-{os.getpid()}-" if self._above and kind == channel.RUN else ""
        if pid := self._fork():
            theirs.close()
            self._nests[kind] = ours, above and f"{above}{pid}"
            return
        ours.close()
        _live(lambda: self._wait(theirs, self._make_spare(above and f"{above}{os.getpid()}", theirs) if kind == channel.RUN else None))

    def _make_spare(self, group: str, nest: socket.socket) -> Spare:
        made = Spare(self._groups, group, nest, self._ground_fd)
        if self._ground_fd >= 0:
            os.close(self._ground_fd)
        return made

    def _leave(self) -> None:
        """Let the monitors that wait clear away what they made ahead, and see them do it."""
        for nest, _ in self._nests.values():
            nest.shutdown(socket.SHUT_WR)
            nest.settimeout(_FAREWELL_S)
            with contextlib.suppress(OSError):
                nest.recv(1)

    def _fork(self) -> int:
        """The new monitor's pid; 0 in that itself."""
        if len(os.listdir("/proc/self/task")) != 1:
            raise OSError("the zygote has more than one thread")
        if pid := os.fork():
            return pid
        for inherited in (self._requests, *(nest for nest, _ in self._nests.values()), *self._starting.values()):
            inherited.close()
        prepare()
        return 0

    def _wait(self, nest: socket.socket, spare: Spare | None) -> None:
        """A monitor's life until it knows what it is for.  ``spare``: made first, since a clone shares all pages again."""
        self._rehearse("wherry-spare")  # the pages that the real thing will write to are its own then
        try:
            order, fds = channel.receive_encoded(nest)
        except channel.Closed:
            if spare is not None:
                spare.discard()
            return
        self._work(order, fds, spare, nest)

    def _work(self, order: bytes, fds: list[int], spare: Spare | None, nest: socket.socket | None) -> None:
        """``nest``: closed once the program runs, which lets the zygote fork the next."""
        head, body = channel.split_order(order)
        message: Mapping[str, Any] = json.loads(head)
        name = _NAMES.get(message["op"], "wherry-monitor")
        process.set_name(name)
        process.set_title(self._title_area, name)
        rest = iter(fds)
        control = socket.socket(fileno=next(rest))
        if message["op"] in _NAMES:
            if nest is not None:
                nest.close()
            _set_oom_score(0)  # what it works on is somebody else's
            (tasks.run if message["op"] == "task" else tasks.parse)(message, control, list(rest))
            if spare is not None:
                spare.discard()
            return
        launched = Launched(
            message=message,
            body=body,
            netns_fd=next(rest) if message["has_netns"] else -1,
            gate_fd=next(rest) if message["has_gate"] else -1,
            target_pidfd=next(rest) if message["has_pidfd"] else -1,
            forward_fds=[next(rest) for _ in message.get("forwards") or ()],
            attachments=[(next(rest), attachment) for attachment in message["attachments"]],
            program_fd=next(rest) if message["has_program"] else -1,
        )
        Monitor(launched, control, self._groups, spare, nest).run()


def _set_oom_score(score: int) -> None:
    """Where it is not allowed to be lower, it stays as it is."""
    with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))


def _live(work: Callable[[], None]) -> NoReturn:
    """Do a forked child's work and end."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 -- the edge of a forked child: nothing may unwind into the zygote's loop
        traceback.print_exc()
    os._exit(status)


def main(fd: int, above: str) -> None:
    """Run until the daemon goes.  ``above``: see `Zygote`."""
    os.umask(0o022)
    os.chdir("/")
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors end whenever they like
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    _set_oom_score(_OOM_SCORE)
    process.set_name("wherry-zygote")
    process.set_title(process.argument_area(), "wherry-zygote")
    Zygote(socket.socket(fileno=fd), above).serve()
