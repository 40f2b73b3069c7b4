"""At start: compare the records with what is really there.  Safe to run twice.

What a crash left without a row is swept; a container that still runs is taken up again, one that ended meanwhile gets its exit code, and
one whose monitor is gone without a word is marked so.
"""

from __future__ import annotations

import logging
import os
import time
from functools import partial

import msgspec

from wherry.containers import restart
from wherry.containers.container import Container
from wherry.containers.lifecycle import Status, has_process
from wherry.engine.rooms import Rooms
from wherry.engine.running import Running, start_ticks
from wherry.errors import EngineError, NotModified
from wherry.kernel import cgroup
from wherry.runtime.supervisor import Process
from wherry.spec.launch import ExitRecord

log = logging.getLogger(__name__)
LOST = 255  # what Docker shows for a container whose end nobody saw (a reboot, a power cut)


def survivors(rooms: Rooms) -> set[str]:
    """Ids of the containers whose first process of this boot is still there."""
    found = set()
    for container in rooms.containers.all():
        state = container.record.state
        same_boot = state.boot_id == rooms.boot_id
        if has_process(state.status) and same_boot and state.pid and start_ticks(state.pid) == state.pid_start_ticks:
            found.add(container.id)
    return found


async def take_up(rooms: Rooms, running: Running, alive: set[str]) -> None:
    """Adopt what runs, finish what ended, start what its policy wants started."""
    wanted: list[Container] = []
    for container in rooms.containers.all():
        state = container.record.state
        was_running = has_process(state.status) or state.status is Status.RESTARTING
        if has_process(state.status):
            process = await _adopt(rooms, container)
            if process is not None:
                _follow(rooms, running, container, process, alive)
                continue
            record = exit_record(rooms.containers.folder(container.id)) or ExitRecord(
                code=137 if state.boot_id == rooms.boot_id else LOST,
                finished_at_ns=time.time_ns(),
                error="its monitor is gone",
            )
            _end_processes(rooms, running, container, alive)
            manually_stopped, state.manually_stopped = state.manually_stopped, True  # the policy is asked below, not by the exit
            await container.perform(partial(running.ended, container, None, record))
            state.manually_stopped = manually_stopped
        elif state.status is Status.RESTARTING:
            state.status = Status.EXITED
        policy = restart.checked(
            container.record.host_config.restart_policy.name, container.record.host_config.restart_policy.maximum_retry_count
        )
        if policy.wants_at_daemon_start(manually_stopped=state.manually_stopped, exit_code=state.exit_code, was_running=was_running):
            wanted.append(container)
    for container in wanted:
        container.record.state.restart_count = 0
        try:
            await running.start(container)
        except NotModified:
            pass
        except (EngineError, OSError) as error:
            log.warning("container %s: not started again: %s", container.name, error)


async def _adopt(rooms: Rooms, container: Container) -> Process | None:
    try:
        return await rooms.supervisor.adopt(container.id, rooms.settings.monitor_socket(container.id))
    except OSError as error:
        log.warning("container %s: its monitor does not answer: %s", container.name, error)
        return None


def _follow(rooms: Rooms, running: Running, container: Container, process: Process, alive: set[str]) -> None:
    if container.id in alive:
        rooms.networks.adopt(container.id, process.pid)
    running.follow(container, process)


def _end_processes(rooms: Rooms, running: Running, container: Container, alive: set[str]) -> None:
    """A container without its monitor cannot be kept: nobody holds its output or will learn its exit code."""
    path = running.cgroups_path(container.id)
    if container.id in alive:
        for pid in cgroup.processes(rooms.cgroups, path):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
    cgroup.remove(rooms.cgroups, path)


def exit_record(folder: str) -> ExitRecord | None:
    """What the monitor wrote when the program ended."""
    try:
        with open(os.path.join(folder, "exit.json"), "rb") as file:
            return msgspec.json.decode(file.read(), type=ExitRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
