"""A container's life from start to end: flows that need the runtime, the networks and the volumes together.

Each flow pushes an undo right after each act; what fails half-way leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from copy import copy
from functools import partial

from wherry.containers import log_options, mounts, oci, present, restart
from wherry.containers.container import Container
from wherry.containers.create import check_runtime, signal_number, stop_signal_number
from wherry.containers.lifecycle import Event, Status, advance
from wherry.containers.record import MountRecord
from wherry.containers.update import updated
from wherry.engine.health import HealthWatcher
from wherry.engine.image_mounts import ImageMounts
from wherry.engine.memory import MemoryWatcher
from wherry.engine.removal import Removal
from wherry.engine.rooms import Rooms
from wherry.engine.wiring import Wired, Wiring
from wherry.errors import Conflict, EngineError, InvalidRequest, NotModified, told
from wherry.kernel import cgroup, limits
from wherry.kernel.mount import sharing
from wherry.runtime import foreign
from wherry.runtime.failure import LaunchFailure
from wherry.runtime.supervisor import Process
from wherry.spec.docker.container import ContainerWaited, HostConfig
from wherry.spec.launch import Attachment, CopyUp, ExitRecord, Forward, Launch
from wherry.spec.mounts import Rootfs

log = logging.getLogger(__name__)
DEFAULT_STOP_TIMEOUT_S = 10
RECORD_AGAIN_S = 1.0
# A signal that ended the program was meant to, and nobody wants it started again. With Docker that holds however much later it ends, so
# that a server which was told to read its configuration anew is not started again when it crashes a week after.
SIGNAL_MEANT_NS = 10_000_000_000
KILL_PATIENCE_S = 10.0  # after SIGKILL a process that is still there is stuck in the kernel


class Running:
    """Start, stop, kill, pause, restart, and what happens when a program ends."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.wiring = Wiring(rooms)
        self.image_mounts = ImageMounts(rooms)
        self.health = HealthWatcher(rooms)
        self.memory = MemoryWatcher(rooms)
        self.removal = Removal(rooms, self)

    # --- start

    async def start(self, container: Container, *, again: bool = False) -> None:
        """``again``: it is the restart policy that asks, which counts; else it counts from none.

        Raises NotModified when it runs, Conflict when it is paused or going, EngineError when the program cannot be started.
        """
        if container.process is not None and container.process.has_ended:
            await container.hear_of_end()  # who saw its output end may be here before
        await container.perform(lambda: self._start(container, again=again))

    async def _start(self, container: Container, *, again: bool) -> None:
        state = container.record.state
        if state.status is Status.RUNNING:
            raise NotModified(f"container {container.id} is already running")
        if state.status is Status.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if state.status in (Status.REMOVING, Status.DEAD):
            raise Conflict(f"container is marked for removal and cannot be started: {container.id}")
        self._cancel_restart(container)
        if not again:
            state.restart_count, container.restart_delay_s = 0, 0.0
        try:
            await self._launch(container)
        except LaunchFailure as failure:
            await self._failed(container, code=failure.code, message=failure.message)
            raise InvalidRequest(failure.message) from failure
        except EngineError as error:
            await self._failed(container, code=state.exit_code or 128, message=error.message)
            raise
        except OSError as error:
            await self._failed(container, code=state.exit_code or 128, message=str(error))
            raise

    async def _failed(self, container: Container, *, code: int, message: str) -> None:
        container.drop_pending()
        state = container.record.state
        state.status = advance(state.status, Event.FAIL)
        state.exit_code, state.error, state.pid = code, message, 0
        try:
            self._rooms.containers.save(container)
        except OSError as error:  # the failure itself is what the client must hear
            log.warning("container %s: its failed start is not recorded: %s", container.name, error)
        container.tell("not-running", "next-exit")
        if container.record.host_config.auto_remove:  # before the client hears of it, who may take the name again
            await self.removal.carry_out_quietly(container)

    async def _launch(self, container: Container) -> None:
        rooms, record = self._rooms, container.record
        check_runtime(record.host_config, rooms.settings.runtimes)  # the daemon may have been started anew with others
        async with self.image_mounts.shown(container) as parts, AsyncExitStack() as undo:
            copy_ups = self._prepare_mounts(record.mounts)
            self._publish_mounts(container)
            wired = await self.wiring.connect(container)
            undo.push_async_callback(self.wiring.disconnect, container)
            undo.callback(wired.held.close)
            around = oci.Surroundings(
                cgroups_path=self.cgroups_path(container),
                files=wired.files,
                joined=wired.joined,
                shm=wired.shm,
                environment=wired.environment,
                parts=parts,
                available_capabilities=rooms.capabilities,
                seccomp=rooms.settings.default_seccomp,
            )
            rootfs = await rooms.furniture.dress(rooms.snapshotter.rootfs(record.snapshot), record.chain)
            launch = self._launch_request(container, oci.oci_config(record, around), rootfs, copy_ups, wired.forwards)
            pending = container.take_pending()
            undo.push_async_callback(rooms.workers.run, self.clear_after_monitor, container)  # one that dies now clears nothing away
            try:
                process = await self._run_plugged(launch, wired, pending)
            finally:
                for fd, _ in pending:
                    os.close(fd)
                wired.close()
            undo.push_async_callback(self._end_unrecorded, process)
            self.record_start(container, process)
            undo.pop_all()
        self.follow(container, process)
        rooms.events.publish("container", "start", container.id, present.attributes(record))

    async def _run_plugged(self, launch: Launch, wired: Wired, attachments: Sequence[tuple[int, Attachment]]) -> Process:
        """Start the first process and finish its network at the same time: the program waits for that.  Raises what either does."""
        start = partial(self._rooms.supervisor.run, launch, forward_fds=wired.forward_fds, attachments=attachments)
        if wired.netns_fd is None or wired.sandbox.plugged or launch.runtime:
            await self.wiring.plug(wired)
            return await start(netns_fd=wired.netns_fd)
        gate_fd, opener_fd = os.pipe2(os.O_CLOEXEC)

        async def plug() -> None:
            try:
                await self.wiring.plug(wired)
                os.write(opener_fd, b"1")
            finally:
                os.close(opener_fd)

        # the start first: its many steps begin in other processes, while the interfaces keep this one busy
        starting = start(netns_fd=wired.netns_fd, gate_fd=gate_fd)
        process, plugged = await asyncio.gather(starting, plug(), return_exceptions=True)
        os.close(gate_fd)
        if isinstance(plugged, BaseException):
            raise plugged  # the program never ran
        if isinstance(process, BaseException):
            raise process
        return process

    async def _end_unrecorded(self, process: Process) -> None:
        """A program whose start could not be recorded must not run."""
        process.signal(signal_number("SIGKILL"))
        await process.wait()
        await process.acknowledge()

    def cgroups_path(self, container: Container) -> str:
        return oci.cgroups_path(container.record, self._rooms.settings.tag)

    def _prepare_mounts(self, records: list[MountRecord]) -> tuple[CopyUp, ...]:
        """Make sure every source is there, and that mounts pass on what is asked; return what empty volumes take from the image."""
        copy_ups = []
        for mount in records:
            if mount.type == "volume":
                mount.source = self._rooms.volumes.path(mount.name)
                if mount.copy_up and not mount.subpath and not os.listdir(mount.source):
                    copy_ups.append(CopyUp(source=mount.source, destination=mount.destination))
            elif mount.type == "bind" and not os.path.lexists(mount.source):
                if mount.spec == "mounts":
                    raise InvalidRequest(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')
                os.makedirs(mount.source, mode=0o755, exist_ok=True)
            if mount.type == "bind" and mount.propagation not in ("", "private", "rprivate"):
                mounts.check_propagation(mount, *sharing(mount.source))
        return tuple(copy_ups)

    def _publish_mounts(self, container: Container) -> None:
        for mount in container.record.mounts:
            if mount.type == "volume":
                facts = {
                    **{"container": container.id, "destination": mount.destination, "driver": mount.driver},
                    **{"propagation": mount.propagation, "read/write": "false" if mount.read_only else "true"},
                }
                self._rooms.events.publish("volume", "mount", mount.name, facts)

    def _launch_request(
        self, container: Container, config: dict[str, object], rootfs: Rootfs, copy_ups: tuple[CopyUp, ...], forwards: tuple[Forward, ...]
    ) -> Launch:
        rooms, record = self._rooms, container.record
        folder = rooms.containers.folder(record.id)
        runtime = rooms.settings.runtimes.get(record.host_config.runtime, ())
        log_target = log_options.target(record, folder)
        if log_target.path:
            os.makedirs(os.path.dirname(log_target.path), mode=0o700, exist_ok=True)
        return Launch(
            id=record.id,
            config=config,
            rootfs=rootfs,
            record_dir=folder,
            socket_path=rooms.settings.monitor_socket(record.id),
            log=log_target,
            user=record.config.user,
            groups=tuple(record.host_config.group_add or ()),
            terminal=record.config.tty,
            open_stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            init=bool(record.host_config.init),
            init_program=foreign.find_init(rooms.settings.init_path) if record.host_config.init and runtime else "",
            copy_ups=copy_ups,
            forwards=forwards,
            console_size=record.host_config.console_size,
            runtime=runtime,
            bundle=rooms.settings.bundle(record.id),
            lasting=not record.host_config.auto_remove,
        )

    def record_start(self, container: Container, process: Process) -> None:
        """Save that it runs.  Raises OSError; nothing has changed then."""
        rooms, before = self._rooms, container.record.state
        container.record.state = state = copy(before)
        state.status = advance(state.status, Event.START)
        state.pid, state.started_at_ns = process.pid, process.started_at_ns
        state.boot_id, state.pid_start_ticks = rooms.boot_id, start_ticks(process.pid)
        state.exit_code, state.error, state.oom_killed, state.manually_stopped = 0, "", False, False
        try:
            rooms.containers.save(container, durable=_has_policy(container))
        except BaseException:
            container.record.state = before
            raise

    def follow(self, container: Container, process: Process) -> None:
        """Watch a process that runs, just started or found again after a restart of the daemon."""
        container.process, container.signalled_ns = process, 0
        process.tell_detached(partial(self._publish, container, "detach"))
        self._rooms.tasks.create_task(self._watch(container, process), name=f"watch {container.name}")
        self.health.begin(container)
        self.memory.begin(container)

    # --- end

    async def _watch(self, container: Container, process: Process) -> None:
        record = await process.wait()
        if process.lost:
            await self._rooms.workers.run(self.clear_after_monitor, container)
        await container.perform_here(lambda: self.ended(container, process, record))

    def clear_after_monitor(self, container: Container) -> None:
        """A container without its monitor cannot be kept: nobody holds its output or will learn its exit code."""
        cgroup.end(self._rooms.cgroups, self.cgroups_path(container))
        with suppress(FileNotFoundError):
            os.unlink(self._rooms.settings.monitor_socket(container.id))
        foreign.forget(self._rooms.settings.bundle(container.id), self.cgroups_path(container))

    async def ended(self, container: Container, process: Process | None, exit_record: ExitRecord) -> None:
        """The program has ended: free what it held, say so, and do what the restart policy and `--rm` ask."""
        rooms, record, state = self._rooms, container.record, container.record.state
        self.health.end(container)
        self.memory.end(container)
        self._freed_namespace_of_exec(container)
        container.process = None
        if exit_record.oom_killed:
            self.memory.tell(container)
        state.exit_code, state.finished_at_ns = exit_record.code, exit_record.finished_at_ns
        state.error = exit_record.error
        state.pid = 0
        if 0 <= state.finished_at_ns - container.signalled_ns < SIGNAL_MEANT_NS:
            state.manually_stopped = True
        policy = restart.checked(record.host_config.restart_policy.name, record.host_config.restart_policy.maximum_retry_count)
        again = policy.wants(exit_code=state.exit_code, manually_stopped=state.manually_stopped, count=state.restart_count)
        state.status = advance(state.status, Event.RETRY if again else Event.EXIT)
        removing = record.host_config.auto_remove and not again and not container.restarts
        # either may come first: a daemon that dies between finds the rest by the records or by what is left
        await self.wiring.disconnect(container)
        await self._let_go(container, process, recorded=not removing)
        for mount in record.mounts:
            if mount.type == "volume":
                rooms.events.publish("volume", "unmount", mount.name, {"container": container.id, "driver": mount.driver})
        if container.stopping:
            container.stopping = False
            self._publish(container, "stop")
        seconds = max(0, state.finished_at_ns - state.started_at_ns) // 1_000_000_000
        rooms.events.publish(
            "container", "die", container.id, present.attributes(record, exitCode=str(state.exit_code), execDuration=str(seconds))
        )
        if again:
            self._schedule_restart(container, ran_s=seconds)
            container.tell("not-running", "next-exit")  # between two runs it does not run
        elif removing:
            container.tell("not-running", "next-exit")
            await self.removal.carry_out(container, volumes=True)
        else:
            container.tell("not-running", "next-exit")

    async def _let_go(self, container: Container, process: Process | None, *, recorded: bool) -> None:
        """Let the monitor go, once its word is ``recorded`` where it has to be."""
        if recorded:
            await self._record_end(container, process)
        elif process is not None:
            await self._dismiss(container, process)

    async def _dismiss(self, container: Container, process: Process) -> None:
        """Let the monitor go; one that was killed since it told of the end has cleared nothing away."""
        known = process.lost
        await process.acknowledge()
        if process.lost and not known:
            await self._rooms.workers.run(self.clear_after_monitor, container)

    async def _record_end(self, container: Container, process: Process | None) -> None:
        """Save what is known of the end; until that succeeds, on a full disk, the monitor stays, which knows it too."""
        try:
            if container.status is not Status.REMOVING:
                self._rooms.containers.save(container)
        except OSError as error:
            log.error("container %s: its end is not recorded yet: %s", container.name, error)
            self._rooms.tasks.create_task(self._record_end_later(container, process), name=f"end of {container.name}")
            return
        if process is not None:
            await self._dismiss(container, process)

    async def _record_end_later(self, container: Container, process: Process | None) -> None:
        await asyncio.sleep(RECORD_AGAIN_S)
        await container.perform(lambda: self._record_end(container, process))

    def _freed_namespace_of_exec(self, container: Container) -> None:
        for item in container.execs.values():
            if item.running and item.process is None:
                item.exit_code = 137

    def _schedule_restart(self, container: Container, *, ran_s: float) -> None:
        container.restart_delay_s = restart.next_delay(container.restart_delay_s, ran_s)
        container.restart_timer = self._rooms.tasks.create_task(self._restart_after(container, container.restart_delay_s))

    async def _restart_after(self, container: Container, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        container.restart_timer = None
        container.record.state.restart_count += 1
        try:
            await self.start(container, again=True)
        except NotModified:
            pass
        except (EngineError, OSError) as error:
            log.warning("container %s: restart failed: %s", container.name, error)
            container.tell("not-running")

    def _cancel_restart(self, container: Container) -> None:
        timer, container.restart_timer = container.restart_timer, None
        if timer is not None and timer is not asyncio.current_task():
            timer.cancel()

    # --- stop, kill, restart, pause

    async def stop(self, container: Container, *, signal: str, timeout_s: int | None, called: str) -> None:
        """Raises NotModified when it is stopped already, InvalidRequest for a bad signal.  ``called``: how the client named it."""
        if container.status is Status.RESTARTING and await container.perform(lambda: self.stop_restarting(container)):
            return
        if not container.is_running:
            raise NotModified(f"container {container.id} is already stopped")
        config = container.record.config
        try:
            number = signal_number(signal) if signal else stop_signal_number(config)
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot stop container: {called}: {error}") from None
        patience = (
            timeout_s if timeout_s is not None else config.stop_timeout if config.stop_timeout is not None else DEFAULT_STOP_TIMEOUT_S
        )
        self._mark_stopped(container)
        container.stopping = True  # `ended` tells of the stop, just before the end it led to
        ended = container.watch("not-running")
        await self._signal(container, number)
        try:
            await asyncio.wait_for(asyncio.shield(ended), None if patience < 0 else patience)
        except TimeoutError:
            pass
        if not ended.done():
            await self._kill_and_wait(container, ended)

    async def stop_restarting(self, container: Container) -> bool:
        """To be called by what is its turn; false where it has started while we waited for that, and there is a program to stop."""
        if container.status is not Status.RESTARTING:
            return False
        self._cancel_restart(container)
        container.record.state.manually_stopped = True
        container.record.state.status = advance(container.status, Event.EXIT)
        self._rooms.containers.save(container)
        container.tell("not-running")
        return True

    def _mark_stopped(self, container: Container) -> None:
        container.record.state.manually_stopped = True
        try:
            self._rooms.containers.save(container, durable=_has_policy(container))
        except OSError as error:  # what runs on a broken disk must still be stoppable
            log.error("container %s: that it was stopped can't be recorded: %s", container.name, error)

    async def end_at_once(self, container: Container) -> None:
        """Kill what runs, which no policy starts again; returns when it has ended.  Raises Conflict when the kernel keeps it."""
        self._mark_stopped(container)
        await self._kill_and_wait(container, container.watch("not-running"))

    async def _kill_and_wait(self, container: Container, ended: asyncio.Future[ContainerWaited]) -> None:
        await self._signal(container, signal_number("SIGKILL"))
        try:
            await asyncio.wait_for(asyncio.shield(ended), KILL_PATIENCE_S)
        except TimeoutError:
            raise Conflict(f"cannot stop container: {container.name}: tried to kill container, but did not receive an exit event") from None

    async def _signal(self, container: Container, number: int) -> None:
        process = container.process
        if process is None:
            return
        if number == signal_number("SIGKILL") and cgroup.is_frozen(self._rooms.cgroups, self.cgroups_path(container)):
            await self._rooms.workers.run(cgroup.freeze, self._rooms.cgroups, self.cgroups_path(container), frozen=False)
        try:
            process.signal(number)
        except ProcessLookupError:
            return
        self._publish(container, "kill", signal=str(number))
        config = container.record.config
        ends = not config.stop_signal or number == stop_signal_number(config)
        if ends and container.status is Status.PAUSED and number != signal_number("SIGKILL"):
            await self._let_answer(container)

    async def _let_answer(self, container: Container) -> None:
        """A paused program that was told to end could not, and would be killed when its time is over."""

        async def thaw() -> None:
            if container.status is Status.PAUSED:
                await self._thaw(container)

        await container.perform(thaw)

    async def kill(self, container: Container, *, signal: str, called: str) -> None:
        """Raises Conflict when it is not running, InvalidRequest for a bad signal.  ``called``: how the client named it."""
        try:
            number = signal_number(signal or "SIGKILL")
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot kill container: {called}: {error}") from None
        if container.status is Status.RESTARTING and await container.perform(lambda: self.stop_restarting(container)):
            return
        if not container.is_running:
            raise Conflict(f"cannot kill container: {called}: container {container.id} is not running")
        if number in (signal_number("SIGKILL"), stop_signal_number(container.record.config)):
            self._mark_stopped(container)
        elif not container.record.config.stop_signal:
            container.signalled_ns = time.time_ns()
        ended = container.watch("not-running")
        if number == signal_number("SIGKILL"):
            await self._kill_and_wait(container, ended)
        else:
            await self._signal(container, number)
            ended.cancel()

    async def restart(self, container: Container, *, signal: str, timeout_s: int | None, called: str) -> None:
        """Stop it if it runs, then start it."""
        container.restarts += 1
        try:
            with suppress(NotModified):  # somebody else is at it
                if container.is_running or container.status is Status.RESTARTING:
                    await self.stop(container, signal=signal, timeout_s=timeout_s, called=called)
            with suppress(NotModified):
                await self.start(container)
        except EngineError as error:
            raise type(error)(f"Cannot restart container {called}: {error}") from error
        finally:
            container.restarts -= 1
        self._publish(container, "restart")

    async def pause(self, container: Container) -> None:
        async def freeze() -> None:
            if container.status is Status.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            if container.status is Status.RESTARTING:
                raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
            if container.status is not Status.RUNNING:
                raise Conflict(f"container {container.id} is not running")
            await self._set_frozen(container, Event.PAUSE, frozen=True)
            self.health.end(container)
            self._publish(container, "pause")

        await container.perform(freeze)

    async def unpause(self, container: Container) -> None:
        async def thaw() -> None:
            if container.status is not Status.PAUSED:
                raise Conflict(f"Container {container.id} is not paused")
            await self._thaw(container)

        await container.perform(thaw)

    async def _thaw(self, container: Container) -> None:
        await self._set_frozen(container, Event.UNPAUSE, frozen=False)
        self.health.resume(container)
        self._publish(container, "unpause")

    async def _set_frozen(self, container: Container, event: Event, *, frozen: bool) -> None:
        former = container.status
        group = (self._rooms.cgroups, self.cgroups_path(container))
        try:
            await self._rooms.workers.run(cgroup.freeze, *group, frozen=frozen)
        except FileNotFoundError:  # it has ended, and we are about to hear of it
            raise Conflict(f"container {container.id} is not running") from None
        try:
            container.record.state.status = advance(former, event)
            self._rooms.containers.save(container)
        except OSError:
            container.record.state.status = former
            await self._rooms.workers.run(cgroup.freeze, *group, frozen=not frozen)
            raise

    # --- update

    async def update(self, container: Container, asked: HostConfig) -> None:
        """Change limits and the restart policy, of a running one at once.  Raises InvalidRequest, Conflict; nothing is changed then."""
        if container.status in (Status.REMOVING, Status.DEAD):
            raise Conflict(f'Cannot update container {container.id}: Container is marked for removal and cannot be "update".')
        try:
            host = updated(container.record.host_config, asked, cpus=len(os.sched_getaffinity(0)))
        except Conflict as error:
            raise Conflict(f"Cannot update container {container.id}: {error}") from error
        if container.is_running:
            await self._limit(container, host)
        container.record.host_config = host
        self._rooms.containers.save(container)

    async def _limit(self, container: Container, host: HostConfig) -> None:
        """Change the limits of a running container; what the kernel refuses changes none of them.  Raises Conflict."""
        try:
            await self._rooms.workers.run(self._write_limits, container, host)
        except OSError as error:
            with suppress(OSError):
                await self._rooms.workers.run(self._write_limits, container, container.record.host_config)
            raise Conflict(f"Cannot update container {container.id}: {told(error)}") from error

    def _write_limits(self, container: Container, host: HostConfig) -> None:
        resources = {key: value for key, value in oci.resources(host).items() if key != "devices"}
        limits.apply(self._rooms.cgroups, self.cgroups_path(container), resources)

    def _publish(self, container: Container, action: str, **more: str) -> None:
        self._rooms.events.publish("container", action, container.id, present.attributes(container.record, **more))


def _has_policy(container: Container) -> bool:
    """Whether it matters after a power cut that it ran, or was stopped by hand."""
    return container.record.host_config.restart_policy.name not in ("", "no")


def start_ticks(pid: int) -> int:
    """When ``pid`` began, in clock ticks since boot; 0 when it has gone.  Tells a pid that was used again."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])
