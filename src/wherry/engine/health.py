"""Runs each container's health probes, one task a container, and tells when the answer changes."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress

from wherry.containers import health, present
from wherry.containers.container import Container, Exec
from wherry.engine.execs import Execs
from wherry.engine.rooms import Rooms
from wherry.errors import EngineError
from wherry.ids import new_id
from wherry.runtime.failure import LaunchFailure
from wherry.spec.docker.exec import ExecCreate, ExecStart
from wherry.spec.launch import Attachment


class HealthWatcher:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._execs = Execs(rooms)

    def begin(self, container: Container) -> None:
        """Start probing, where the container has a probe."""
        plan = _plan(container)
        if plan is None:
            container.health = None
            return
        container.health = health.Health(log=container.health.log if container.health else ())
        self._follow(container, plan)

    def _follow(self, container: Container, plan: health.ProbePlan) -> None:
        container.health_task = self._rooms.tasks.create_task(self._probe_forever(container, plan), name=f"health {container.name}")

    def resume(self, container: Container) -> None:
        """Go on after a pause: what the next probe says counts."""
        if (plan := _plan(container)) is not None and container.health_task is None:
            self._follow(container, plan)

    def end(self, container: Container) -> None:
        """Ended or paused: no probe, and whoever asks must not think that it answers."""
        task, container.health_task = container.health_task, None
        if task is not None:
            task.cancel()
        if container.health is not None:
            container.health = health.Health(status="unhealthy", failing_streak=container.health.failing_streak, log=container.health.log)

    async def _probe_forever(self, container: Container, plan: health.ProbePlan) -> None:
        started = container.record.state.started_at_ns
        while container.health is not None:
            await asyncio.sleep(container.health.next_wait_ns(plan, started_at_ns=started, now_ns=time.time_ns()) / 1e9)
            result = await self._probe(container, plan)
            before = container.health.status
            container.health = container.health.after(result, plan, started_at_ns=started)
            if container.health.status != before:
                self._rooms.events.publish(
                    "container", f"health_status: {container.health.status}", container.id, present.attributes(container.record)
                )

    async def _probe(self, container: Container, plan: health.ProbePlan) -> health.ProbeResult:
        start = time.time_ns()
        printed = _Printed()
        try:
            code, output = await self._run(container, plan, printed), printed.text()
        except LaunchFailure as failure:
            code, output = failure.code, failure.message
        except TimeoutError:
            said = printed.text()
            code, output = -1, f"Health check exceeded timeout ({health.duration(plan.timeout_ns)})" + (f": {said}" if said else "")
        except (EngineError, OSError) as error:
            code, output = -1, str(error)
        return health.ProbeResult(start_ns=start, end_ns=time.time_ns(), exit_code=code, output=output)

    async def _run(self, container: Container, plan: health.ProbePlan, printed: _Printed) -> int:
        body = ExecCreate(cmd=list(plan.command), attach_stdout=True, attach_stderr=True)
        item = Exec(new_id(), container, body)
        item.started = True
        self._execs.announce(item)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            attachment = Attachment(stdin=False, stdout=True, stderr=True, multiplexed=False)
            process = await self._execs.launch(item, ExecStart(), ((theirs.fileno(), attachment),))
            theirs.close()
            try:
                async with asyncio.timeout(plan.timeout_ns / 1e9):
                    await printed.read(ours)
                    return (await process.wait()).code
            except asyncio.CancelledError:  # it is being paused, and would be told of long after
                with suppress(ProcessLookupError):
                    process.signal(9)
                raise
            except TimeoutError:
                if process.has_ended:  # in time: it is we who stood still
                    await printed.read(ours)
                    return (await process.wait()).code
                process.signal(9)
                raise


def _plan(container: Container) -> health.ProbePlan | None:
    check = container.record.config.healthcheck
    if check is None:
        return None
    return health.plan_of(
        check.test or [],
        interval=check.interval,
        timeout=check.timeout,
        start_period=check.start_period,
        start_interval=check.start_interval,
        retries=check.retries,
        shell=container.record.config.shell or [],
    )


class _Printed:
    """What a probe printed so far, at most as much as is kept."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = False

    async def read(self, source: socket.socket) -> None:
        """Read to the end; what is too much is dropped, so that the probe never blocks."""
        source.setblocking(False)
        while data := await asyncio.get_running_loop().sock_recv(source, 1 << 16):
            room = health.KEPT_OUTPUT - len(self._kept)
            self._cut = self._cut or len(data) > room
            self._kept += data[:room]

    def text(self) -> str:
        return self._kept.decode(errors="replace") + ("..." if self._cut else "")
