"""A small single-threaded interpreter that forks monitors: ``python -m wherry.runtime.zygote FD``.

Executed by the daemon before anything else. Everything a container start needs is imported and loaded here, once, and frozen, so a fork
shares it. It answers nothing: each request carries the channel on which its monitor talks to the daemon.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from wherry.kernel import cgroup, process
from wherry.runtime import channel, filters, tasks
from wherry.runtime.monitor import Monitor, prepare


class Zygote:
    """Serves one daemon until it closes the channel."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._compiler = filters.Compiler()
        self._groups = cgroup.find()

    def serve(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        while True:
            try:
                message, fds = channel.receive(self._requests)
            except channel.Closed:
                return
            control = socket.socket(fileno=fds.pop(0))
            try:
                self._dispatch(message, control, fds)
            except (ValueError, KeyError, OSError) as error:
                with contextlib.suppress(channel.Closed, OSError):
                    channel.send(control, {"event": "failed", "code": 128, "message": str(error)})
            finally:
                control.close()
                for fd in fds:
                    os.close(fd)

    def _dispatch(self, message: Mapping[str, Any], control: socket.socket, fds: list[int]) -> None:
        program = b""
        if message["op"] != "task":
            profile = message["seccomp"] if message["op"] == "execute" else (message["config"].get("linux") or {}).get("seccomp")
            program = self._compiler.program(profile) if profile else b""
        if len(os.listdir("/proc/self/task")) != 1:
            raise OSError("the zygote has more than one thread")
        if os.fork():
            return
        status = 1
        try:
            prepare("wherry-monitor")
            self._requests.close()
            if message["op"] == "task":
                tasks.run(message, control, fds)
            else:
                self._monitor(message, control, program, fds)
            status = 0
        except BaseException:  # noqa: BLE001 -- the edge of a forked child: nothing may unwind into the zygote's loop
            traceback.print_exc()
        os._exit(status)

    def _monitor(self, message: Mapping[str, Any], control: socket.socket, program: bytes, fds: list[int]) -> None:
        rest = iter(fds)
        netns_fd = next(rest) if message["has_netns"] else -1
        target_pidfd = next(rest) if message["has_pidfd"] else -1
        forwards = [next(rest) for _ in message.get("forwards") or ()]
        attachments = [(next(rest), attachment) for attachment in message["attachments"]]
        Monitor(message, control, program, self._groups).run(netns_fd, forwards, target_pidfd, attachments)


def main(fd: int) -> None:
    """Run until the daemon goes."""
    os.umask(0o022)
    os.chdir("/")
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors end whenever they like
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    process.set_name("wherry-zygote")
    Zygote(socket.socket(fileno=fd)).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
