"""Further processes in a running container: `exec`, and health probes.  Source: Engine API 1.51 ContainerExec, ExecStart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from functools import partial

from wherry.containers import oci, present
from wherry.containers.container import Container, Exec
from wherry.containers.lifecycle import Status
from wherry.engine.rooms import Rooms
from wherry.errors import Conflict, InvalidRequest
from wherry.ids import new_id
from wherry.runtime.client import detach_sequence
from wherry.runtime.failure import LaunchFailure
from wherry.runtime.supervisor import Process
from wherry.spec.docker.exec import ExecCreate, ExecInspect, ExecStart, ProcessConfig
from wherry.spec.docker.request import Hijack
from wherry.spec.launch import Attachment, ExecLaunch

LAUNCH_PATIENCE_S = 2.0
STOPPED = "OCI runtime exec failed: exec failed: cannot exec in a stopped container"  # runc's words
RELATIVE = "OCI runtime exec failed: exec failed: Cwd must be an absolute path"
MOST_ID = 2**31 - 1
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


class Execs:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def create(self, container: Container, body: ExecCreate, *, called: str) -> Exec:
        """Raises Conflict where the container does not run, InvalidRequest for an empty command.  ``called``: how the client named it."""
        self._check_running(container, called)
        if not body.cmd:
            raise InvalidRequest("No exec command specified")
        if not is_pressable(body.detach_keys):
            raise InvalidRequest(f"Invalid escape keys ({body.detach_keys}) provided")
        item = Exec(new_id(), container, body)
        self._rooms.containers.add_exec(item)
        self._publish(item, f"exec_create: {_words(body.cmd)}")
        return item

    def _check_running(self, container: Container, called: str) -> None:
        if container.status is Status.PAUSED:
            raise Conflict(f"Container {called} is paused, unpause the container before exec")
        if container.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.is_running:
            raise Conflict(f"container {container.id} is not running")

    async def start(self, item: Exec, body: ExecStart, hijack: Hijack | None) -> None:
        """Run it; with ``hijack`` the client's connection goes to its monitor, and a failed start is told in the stream.

        What the start says of a terminal decides whether the stream has frames, whatever the exec itself has, as with Docker.
        """
        self._check_running(item.container, item.container.id)
        try:
            self._check_not_started(item)
        except Conflict:
            if hijack is not None:
                await hijack(body.tty)  # Docker has taken the connection over before it looks: the error goes into the stream
            raise
        item.started = True
        self._publish(item, f"exec_start: {_words(item.body.cmd or [])}")
        if hijack is None:
            try:
                await self.launch(item, body, ())
            except LaunchFailure as failure:
                item.exit_code = failure.code
                raise InvalidRequest(failure.message) from failure
            return
        try:
            taken = await hijack(body.tty)
        except BaseException:
            item.exit_code = 137
            raise
        asked = item.body
        attachment = Attachment(
            stdin=asked.attach_stdin,
            stdout=asked.attach_stdout,
            stderr=asked.attach_stderr,
            detach_keys=asked.detach_keys or DEFAULT_DETACH_KEYS,
            leftover=taken.leftover,
            multiplexed=not body.tty,
        )
        try:
            await self.launch(item, body, ((taken.fd, attachment),))
        except LaunchFailure as failure:
            item.exit_code = failure.code
            _tell(taken.fd, failure.message + "\r\n", multiplexed=not body.tty)

    def announce(self, item: Exec) -> None:
        """The events of one that is made and started at once."""
        for action in ("exec_create", "exec_start"):
            self._publish(item, f"{action}: {_words(item.body.cmd or [])}")

    def _check_not_started(self, item: Exec) -> None:
        if item.started:
            past = item.exit_code is not None
            raise Conflict(f"exec command {item.id} has already run" if past else f"exec command {item.id} is already running")

    async def check_user(self, container: Container, user: str) -> None:
        """Raises InvalidRequest in Docker's words for a name that nobody has there."""
        if container.process is None or not user or all(_is_id(part) for part in user.split(":")):
            return
        try:
            await self._rooms.supervisor.task(container.process, "identify", {"user": user})
        except OSError as error:
            raise InvalidRequest(error.strerror) from error

    async def launch(self, item: Exec, body: ExecStart, attachments: tuple[tuple[int, Attachment], ...]) -> Process:
        """Start the process and follow it to its end."""
        try:
            if not (item.body.working_dir or "/").startswith("/"):
                raise LaunchFailure(128, RELATIVE)
            item.process = process = await self._rooms.supervisor.execute(self._request(item, body), attachments=attachments)
        except LaunchFailure as failure:
            if item.container.process is None or item.container.process.has_ended:
                raise LaunchFailure(failure.code, STOPPED) from failure
            raise
        except BaseException:
            item.exit_code = 137
            raise
        finally:
            item.launched.set()
        process.tell_detached(partial(self._publish, item, "exec_detach"))
        self._rooms.tasks.create_task(self._follow(item, process), name=f"exec {item.id[:12]}")
        return process

    async def _follow(self, item: Exec, process: Process) -> None:
        record = await process.wait()
        item.exit_code = record.code
        await process.acknowledge()
        self._publish(item, "exec_die", exitCode=str(record.code))

    def _request(self, item: Exec, body: ExecStart) -> ExecLaunch:
        rooms, record, asked = self._rooms, item.container.record, item.body
        host = record.host_config
        around = oci.Surroundings(cgroups_path="", available_capabilities=rooms.capabilities)
        process = oci.process(record, around)
        own = oci.capabilities_of(host, rooms.capabilities)
        inherited = oci.environment(record.config, (), terminal=record.config.tty and asked.tty)
        changed = {name.partition("=")[0] for name in asked.env or ()}
        process |= {
            "terminal": asked.tty,
            "args": list(asked.cmd or []),
            "cwd": asked.working_dir or record.config.working_dir or "/",
            "env": [
                *(["TERM=xterm"] if asked.tty and not record.config.tty and "TERM" not in changed else []),
                *(one for one in inherited if one.partition("=")[0] not in changed),
                *(one for one in asked.env or () if "=" in one),
            ],
            "capabilities": oci.capability_sets(list(rooms.capabilities) if asked.privileged else own),
        }
        size = body.console_size or asked.console_size or (0, 0)
        return ExecLaunch(
            id=item.id,
            container_id=record.id,
            process=process,
            record_dir="",
            socket_path="",
            # The container's own filter also for a privileged exec, as with Docker: what such a program leaves behind is the container's.
            seccomp=oci.seccomp_of(host, own, record.architecture, default=rooms.settings.default_seccomp),
            cgroups_path=oci.cgroups_path(record, rooms.settings.tag),
            user=asked.user or record.config.user,
            groups=tuple(host.group_add or ()),
            terminal=asked.tty,
            open_stdin=asked.attach_stdin,
            console_size=(size[0], size[1]),
        )

    async def settled(self, item: Exec) -> None:
        """Wait for the exit code of a process that has ended: a client that saw its stream end asks for it at once.

        The quickest have ended before the daemon heard that they began.
        """
        if item.started and not item.launched.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(item.launched.wait(), LAUNCH_PATIENCE_S)
        process = item.process
        if item.running and process is not None and process.has_ended:
            item.exit_code = (await process.wait()).code  # the follower may stand behind us in the queue

    def inspect(self, item: Exec) -> ExecInspect:
        asked = item.body
        words = list(asked.cmd or [])
        return ExecInspect(
            id=item.id,
            running=item.running,
            exit_code=item.exit_code,
            process_config=ProcessConfig(
                tty=asked.tty,
                entrypoint=words[0],
                arguments=words[1:],
                privileged=asked.privileged,
                user=asked.user or item.container.record.config.user,
            ),
            open_stdin=asked.attach_stdin,
            open_stderr=asked.attach_stderr,
            open_stdout=asked.attach_stdout,
            can_remove=False,
            container_id=item.container.id,
            detach_keys=base64.b64encode(detach_sequence(asked.detach_keys)).decode(),
            pid=item.process.pid if item.process else 0,
        )

    def _publish(self, item: Exec, action: str, **more: str) -> None:
        facts = present.attributes(item.container.record, execID=item.id, **more)
        self._rooms.events.publish("container", action, item.container.id, facts)


def _words(command: list[str]) -> str:
    """As events show it: the program, a space, its arguments."""
    return f"{command[0]} {' '.join(command[1:])}" if command else ""


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= MOST_ID


def _tell(fd: int, text: str, *, multiplexed: bool) -> None:
    """Write a message to a client's stream as the program's own output."""
    data = text.encode()
    try:
        os.write(fd, struct.pack(">BxxxI", 1, len(data)) + data if multiplexed else data)
    except OSError:
        return


def is_pressable(keys: str) -> bool:
    """Whether somebody can press these detach keys; none are the default's."""
    try:
        detach_sequence(keys)
    except ValueError:
        return False
    return True
