"""A container as the running daemon knows it: its record, its process if any, who waits for it, and one queue for what changes it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from wherry.containers.health import Health
from wherry.containers.lifecycle import Status, has_process
from wherry.containers.record import ContainerRecord
from wherry.runtime.supervisor import Process
from wherry.spec.docker.container import ContainerWaited
from wherry.spec.docker.exec import ExecCreate
from wherry.spec.launch import Attachment

T = TypeVar("T")
log = logging.getLogger(__name__)
_END_PATIENCE_S = 2.0


class Exec:
    """A further process: asked for, perhaps started, perhaps ended."""

    def __init__(self, ident: str, container: Container, body: ExecCreate) -> None:
        self.id = ident
        self.container = container
        self.body = body
        self.process: Process | None = None
        self.started = False
        self.launched = asyncio.Event()  # it has a process, or failed to get one
        self.exit_code: int | None = None

    @property
    def running(self) -> bool:
        return self.started and self.exit_code is None


class Container:
    """Operations that change the state run one at a time, in order, in a task of the container's own: a client that goes away does not
    leave one half done."""

    def __init__(self, record: ContainerRecord, tasks: asyncio.TaskGroup) -> None:
        self.record = record
        self.process: Process | None = None
        self.health: Health | None = None
        self.execs: dict[str, Exec] = {}
        self.stopping = False  # a stop was asked for and has not ended
        self.signalled_ns = 0  # when somebody last sent it a signal of their choice
        self.restarts = 0  # how many are going on: its end is half of one then, after which `--rm` removes nothing
        self.restart_delay_s = 0.0
        self.restart_timer: asyncio.Task[None] | None = None
        self.health_task: asyncio.Task[None] | None = None
        self._tasks = tasks
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._server: asyncio.Task[None] | None = None
        self._waiters: dict[str, list[asyncio.Future[ContainerWaited]]] = {"not-running": [], "next-exit": [], "removed": []}
        self._pending: list[tuple[int, Attachment]] = []

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> Status:
        return self.record.state.status

    @property
    def is_running(self) -> bool:
        """True while there is a first process, paused or not."""
        return has_process(self.status)

    async def perform(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run ``operation`` after those before it; it goes on to its end even when the caller is cancelled."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def job() -> None:
            try:
                result = await operation()
            except asyncio.CancelledError:
                done.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - handed to whoever asked, or logged
                if done.cancelled():
                    log.warning("container %s: %s (the client has gone)", self.name, error)
                else:
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        self._queue.put_nowait(job)
        if self._server is None or self._server.done():
            self._begin()
        return await done

    async def perform_here(self, operation: Callable[[], Awaitable[None]]) -> None:
        """As `perform`, within a task of the engine's own, which nobody cancels: it need not wait for another to begin."""
        if self._server is not None and not self._server.done():
            await self.perform(operation)
            return
        self._server = asyncio.current_task()
        try:
            await operation()
        finally:
            self._server = None
            if not self._queue.empty():
                self._begin()

    def _begin(self) -> None:
        self._server = self._tasks.create_task(self._serve(), name=f"container {self.name}")

    async def _serve(self) -> None:
        while not self._queue.empty():
            await self._queue.get_nowait()()

    def watch(self, condition: str) -> asyncio.Future[ContainerWaited]:
        """A future of the next time ``condition`` (not-running, next-exit, removed) holds."""
        future: asyncio.Future[ContainerWaited] = asyncio.get_running_loop().create_future()
        if condition == "not-running" and not self.is_running and self.status is not Status.RESTARTING:
            future.set_result(self._outcome())
        else:
            self._waiters[condition].append(future)
            future.add_done_callback(lambda _: self._forget(condition, future))
        return future

    async def hear_of_end(self) -> None:
        """Wait until the end of its program has been told, which has happened; only for a moment, for that may be wrong."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.watch("not-running"), _END_PATIENCE_S)

    def _forget(self, condition: str, future: asyncio.Future[ContainerWaited]) -> None:
        if future in self._waiters[condition]:
            self._waiters[condition].remove(future)

    def tell(self, *conditions: str) -> None:
        """Answer everyone who waits for one of ``conditions``."""
        outcome = self._outcome()
        for condition in conditions:
            for future in tuple(self._waiters[condition]):
                if not future.done():
                    future.set_result(outcome)

    def _outcome(self) -> ContainerWaited:
        """Docker's ``Error`` speaks only of a wait that went wrong: why a program did not start is the answer of the start."""
        return ContainerWaited(status_code=self.record.state.exit_code)

    def hold(self, fd: int, attachment: Attachment) -> None:
        """Keep a client's connection (a duplicate of ``fd``) for when the program starts."""
        self._pending.append((os.dup(fd), attachment))

    def take_pending(self) -> list[tuple[int, Attachment]]:
        """The connections held; the caller closes them once they are handed over."""
        pending, self._pending = self._pending, []
        return pending

    def drop_pending(self) -> None:
        """The program will not start: the clients see the end of their streams."""
        for fd, _ in self.take_pending():
            os.close(fd)
