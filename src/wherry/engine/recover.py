"""At start: compare the records with what is really there.  Safe to run twice.

What a crash left without a row is swept; a container that still runs is taken up again, one that ended meanwhile gets its exit code, and
one whose monitor is gone without a word is marked so.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from functools import partial

import msgspec

from wherry.containers import restart
from wherry.containers.container import Container
from wherry.containers.lifecycle import Status, has_process
from wherry.engine import selftest
from wherry.engine.rooms import Rooms
from wherry.engine.running import Running, start_ticks
from wherry.errors import EngineError, NotModified
from wherry.kernel import cgroup
from wherry.runtime import foreign
from wherry.runtime.supervisor import Process
from wherry.spec.launch import ExitRecord
from wherry.spec.settings import Settings

log = logging.getLogger(__name__)
LOST = 255  # what Docker shows for a container whose end nobody saw (a reboot, a power cut)


def survivors(rooms: Rooms) -> set[str]:
    """Ids of the containers that run, also of those whose start the last daemon did not live to record; all other processes are ended."""
    found = set()
    for container in rooms.containers.all():
        state = container.record.state
        if not has_process(state.status):
            if _answers(rooms.settings.monitor_socket(container.id)):
                found.add(container.id)
        elif state.boot_id == rooms.boot_id and state.pid and start_ticks(state.pid) == state.pid_start_ticks:
            found.add(container.id)
    for name in cgroup.children(rooms.cgroups, f"/{rooms.settings.tag}") - found - {selftest.CGROUP}:
        if rooms.supervisor.made_ahead(name):
            continue
        log.info("ending processes that no container accounts for: %s", name)
        cgroup.end(rooms.cgroups, f"/{rooms.settings.tag}/{name}")
    told = {container.id for container in rooms.containers.all() if has_process(container.status)}  # or will tell how it ended
    _sweep_bundles(rooms.settings, found | told)
    _sweep_sockets(f"{rooms.settings.run_root}/monitors", {rooms.settings.monitor_socket(ident) for ident in found | told})
    return found


def _sweep_sockets(folder: str, used: set[str]) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if path not in used:
            os.unlink(path)


def _sweep_bundles(settings: Settings, used: set[str]) -> None:
    """What other runtimes keep of containers that ended while no monitor lived."""
    with suppress(FileNotFoundError):
        for name in set(os.listdir(f"{settings.run_root}/bundles")) - used:
            foreign.forget(settings.bundle(name), f"/{settings.tag}/{name}")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(path) == 0


async def take_up(rooms: Rooms, running: Running, alive: set[str]) -> None:
    """Adopt what runs, finish what ended, start what its policy wants started."""
    wanted: list[Container] = []
    for container in rooms.containers.all():
        state = container.record.state
        if has_process(state.status) or container.id in alive:
            process = await _adopt(rooms, container)
            if process is not None:
                _follow(rooms, running, container, process, alive)
                continue
            if not has_process(state.status):
                continue  # it ended between the look and the call: as if it had never been started
            record = exit_record(rooms.containers.folder(container.id), since_ns=state.started_at_ns) or ExitRecord(
                code=137 if state.boot_id == rooms.boot_id else LOST,
                finished_at_ns=time.time_ns(),
                error="its monitor is gone",
            )
            running.clear_after_monitor(container)
            manually_stopped, state.manually_stopped = state.manually_stopped, True  # the policy is asked below, not by the exit
            await container.perform(partial(running.ended, container, None, record))
            state.manually_stopped = manually_stopped
        elif state.status is Status.RESTARTING:
            state.status = Status.EXITED
        policy = restart.checked(
            container.record.host_config.restart_policy.name, container.record.host_config.restart_policy.maximum_retry_count
        )
        again = policy.wants_at_daemon_start(manually_stopped=state.manually_stopped, exit_code=state.exit_code, count=state.restart_count)
        if again and state.started_at_ns:
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
        try:
            network = process.open_namespace("net")
        except OSError:
            pass  # it has just ended
        else:
            rooms.networks.adopt(container.id, network)
    if not has_process(container.status):
        running.record_start(container, process)
    status = Status.PAUSED if cgroup.is_frozen(rooms.cgroups, running.cgroups_path(container)) else Status.RUNNING
    if container.status is not status:  # the last daemon died between the act and its record
        container.record.state.status = status
        rooms.containers.save(container)
    running.follow(container, process)


def exit_record(folder: str, *, since_ns: int) -> ExitRecord | None:
    """What the monitor wrote when the program ended; not what is left of an earlier run."""
    try:
        with open(os.path.join(folder, "exit.json"), "rb") as file:
            record = msgspec.json.decode(file.read(), type=ExitRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return record if record.finished_at_ns >= since_ns else None
