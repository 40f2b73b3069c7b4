"""Who reads archives: for each a process of its own, forked by the zygote, confined, and ended when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.kernel import landlock
from wherry.runtime import channel
from wherry.runtime.supervisor import Supervisor
from wherry.store.parsing import PATIENCE_S, Job
from wherry.tree.tar import InvalidArchive

log = logging.getLogger(__name__)
_DYING_MS = 10_000  # of patience with a process that the kernel can't end just now


class Confined:
    """A `store.parsing.Start`.  Called in worker threads; on the loop's thread only by what can't wait."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        if not landlock.version():
            log.warning("this kernel has no Landlock: processes that read archives are confined without it")

    def __call__(self, name: str, arguments: Mapping[str, Any], fds: Sequence[int]) -> Job:
        if threading.get_ident() == self._thread:
            control = self._supervisor.parse_now(name, dict(arguments), fds)
        else:
            control = asyncio.run_coroutine_threadsafe(self._supervisor.parse(name, dict(arguments), fds), self._loop).result()
        return _Process(control)


class _Process:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pidfd = -1
        self._result: dict[str, Any] | None = None

    def result(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        if self._result is None:
            self._control.settimeout(timeout_s)
            try:
                self._result = self._answer()
            except TimeoutError:
                self.end()
                raise InvalidArchive(f"the archive could not be read within {timeout_s:.0f} s") from None
            self._kill()
        return self._result

    def end(self) -> None:
        if self._result is None and self._control.fileno() >= 0:
            with contextlib.suppress(channel.Closed, OSError, ValueError):
                self._control.settimeout(1.0)
                while self._pidfd < 0:
                    self._hear()
        self._control.close()
        self._kill()

    def _kill(self) -> None:
        """Also when it has answered: what an archive has taken over might say that it is done, and later cut a file that we look into."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            ended.poll(_DYING_MS)
        os.close(self._pidfd)
        self._pidfd = -1

    def _answer(self) -> dict[str, Any]:
        while True:
            try:
                message = self._hear()
            except channel.Closed:
                raise InvalidArchive("the process that read the archive died: it needed too much memory or time") from None
            match message["event"]:
                case "done":
                    result: dict[str, Any] = message["result"]
                    return result
                case "invalid":
                    raise InvalidArchive(message["text"])
                case "error" | "failed":
                    raise OSError(message.get("errno", 5), message.get("text") or message.get("message"), message.get("path"))

    def _hear(self) -> dict[str, Any]:
        message, fds = channel.receive(self._control)
        for fd in fds:
            if self._pidfd < 0:
                self._pidfd = fd
            else:
                os.close(fd)
        return message
