"""A small single-threaded interpreter that forks monitors: ``python -m wherry.runtime.zygote FD``.

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
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from wherry.kernel import cgroup, process
from wherry.runtime import channel, confinement, filters, rehearsal, tasks
from wherry.runtime.jsonlog import JsonLog
from wherry.runtime.logfile import Limits
from wherry.runtime.monitor import Launched, Monitor, prepare
from wherry.runtime.spare import Spare

_NAMES = {"task": "wherry-task", "parse": "wherry-parse"}

_OOM_SCORE = -999  # of zygote and monitors: a monitor's death is its container's; what they start has a score of its own


class Zygote:
    """Serves one daemon until it closes the channel."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._compiler = filters.Compiler()
        self._groups = cgroup.find()
        self._nests: dict[bytes, socket.socket] = {}

    def serve(self) -> None:
        rehearsal.specialise(self._rehearse)
        for files in (False, True):
            confinement.program(files=files)
        gc.collect()
        gc.freeze()
        gc.disable()
        waiting = select.poll()
        waiting.register(self._requests, select.POLLIN)
        while True:
            for kind in (channel.RUN, channel.OTHER):
                if kind not in self._nests and not waiting.poll(0):
                    self._hatch(kind)
            try:
                body, fds = channel.receive_encoded(self._requests)
            except channel.Closed:
                return
            try:
                self._dispatch(body, fds)
            except (ValueError, KeyError, OSError) as error:
                with contextlib.suppress(channel.Closed, OSError), socket.socket(fileno=os.dup(fds[0])) as control:
                    channel.send(control, {"event": "failed", "code": 128, "message": str(error)})
            finally:
                for fd in fds:
                    os.close(fd)

    def _rehearse(self) -> None:
        """What a monitor does that touches nothing outside."""
        ours, theirs = channel.pair()
        with ours, theirs:
            channel.send(ours, {"event": "rehearsed", "pid": 0}, [theirs.fileno()])
            for fd in channel.receive(theirs)[1]:
                os.close(fd)
        process.set_name("wherry-zygote")
        log = JsonLog("/dev/null", Limits())
        log.write("stdout", b"rehearsed\n", 0)
        log.finish(0)
        Monitor(Launched(message={"op": "run"}, body=b"", program_fd=-1), None, self._groups)
        cgroup.oom_kills(self._groups, "/rehearsal")

    def _dispatch(self, data: bytes, fds: list[int]) -> None:
        kind, body, profile = channel.split_request(data)
        passed = [*fds, self._compiler.open_program(profile)] if profile else fds
        if kind in self._nests:
            with self._nests.pop(kind) as nest, contextlib.suppress(channel.Closed):
                channel.send_encoded(nest, body, passed)
                return
        if self._fork():
            return
        _live(lambda: self._work(body, passed, None))

    def _hatch(self, kind: bytes) -> None:
        """Fork the next monitor ahead of its request; one for a container has a first process ready too."""
        ours, theirs = channel.pair()
        if self._fork():
            theirs.close()
            self._nests[kind] = ours
            return
        ours.close()
        _live(lambda: self._wait(theirs, Spare(self._groups) if kind == channel.RUN else None))

    def _fork(self) -> bool:
        """True in the zygote, False in the new monitor."""
        if len(os.listdir("/proc/self/task")) != 1:
            raise OSError("the zygote has more than one thread")
        if os.fork():
            return True
        self._requests.close()
        return False

    def _wait(self, nest: socket.socket, spare: Spare | None) -> None:
        """A monitor's life until it knows what it is for.  ``spare``: made first, since a clone shares all pages again."""
        prepare("wherry-spare")
        try:
            body, fds = channel.receive_encoded(nest)
        except channel.Closed:
            if spare is not None:
                spare.discard()
            return
        nest.close()
        self._work(body, fds, spare)

    def _work(self, body: bytes, fds: list[int], spare: Spare | None) -> None:
        message: Mapping[str, Any] = json.loads(body)
        prepare(_NAMES.get(message["op"], "wherry-monitor"))
        rest = iter(fds)
        control = socket.socket(fileno=next(rest))
        if message["op"] in _NAMES:
            _set_oom_score(0)  # what it works on is somebody else's
            (tasks.run if message["op"] == "task" else tasks.parse)(message, control, list(rest))
            if spare is not None:
                spare.discard()
            return
        netns_fd = next(rest) if message["has_netns"] else -1
        target_pidfd = next(rest) if message["has_pidfd"] else -1
        forwards = [next(rest) for _ in message.get("forwards") or ()]
        attachments = [(next(rest), attachment) for attachment in message["attachments"]]
        launch = Launched(message=message, body=body, program_fd=fds[-1] if message["has_program"] else -1)
        Monitor(launch, control, self._groups, spare).run(netns_fd, forwards, target_pidfd, attachments)


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


def main(fd: int) -> None:
    """Run until the daemon goes."""
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
    Zygote(socket.socket(fileno=fd)).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
