"""The daemon's side of the runtime: owns the zygote, and one object per running process.  The only asyncio module of the room."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from wherry.runtime import channel, filters
from wherry.runtime.defaults import SPARE_GROUP
from wherry.runtime.failure import LaunchFailure as LaunchFailure  # the seam names it here
from wherry.spec.launch import Attachment, ExecLaunch, ExitRecord, Launch
from wherry.spec.mounts import Rootfs

_BOOT = "import sys; sys.path[:] = [{path!r}, *sys.path, *{libraries!r}]; from wherry.runtime.zygote import main; main({fd}, {groups!r})"
_ADOPT_S = 10.0  # a monitor that does not answer by then hangs
_FIRST_PROCESSES = frozenset({"config", "rootfs", "copy_ups"})  # what of a launch the monitor need not know
_ROOT = str(Path(__file__).resolve().parents[2])
_LIBRARIES = ("isal", "zstandard")  # all that the zygote needs beside the standard library: `tree.compression`'s


class Process:
    """A running (or ended) container, build step or exec."""

    def __init__(self, ident: str, control: socket.socket, supervisor: Supervisor, socket_path: str = "") -> None:
        """``socket_path``: where its monitor listens, "" for nowhere."""
        self.ident = ident
        self._socket_path = socket_path
        self.pid = 0
        self.started_at_ns = 0
        self.lost = False  # its monitor was killed, and could clear nothing away
        self._on_detach: Callable[[], None] | None = None
        self._detached = 0  # clients that left by their keys before anyone asked to be told
        self._control = control
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self._parted = False
        self._sending = asyncio.Lock()  # the loop has one listener for each descriptor: of two that wait one would wait for ever
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._exited: asyncio.Future[ExitRecord] = self._loop.create_future()
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._on_message)

    async def wait(self) -> ExitRecord:
        """How it ended.  Its output is drained and its record on disk by then.  Any number of callers."""
        return await asyncio.shield(self._exited)

    async def attach(self, client_fd: int, attachment: Attachment) -> None:
        """Give the monitor a client's socket; it is duplicated, the caller closes its own.  Raises ProcessLookupError when it has ended."""
        await self._send({"op": "attach", "attachment": _attachment(attachment)}, [client_fd])

    async def resize(self, height: int, width: int) -> None:
        """Set the size of its terminal."""
        await self._send({"op": "resize", "height": height, "width": width})

    async def acknowledge(self) -> None:
        """The exit is recorded elsewhere: the monitor may go.  Never fails; ``lost`` tells when nobody was there to hear it."""
        if self._socket_path:
            with suppress(OSError):  # not by the monitor: it may be killed before it hears us, or go when the container's next one listens
                os.unlink(self._socket_path)
        try:
            await self._send({"op": "acknowledge"})
        except (channel.Closed, OSError):
            self.lost = True
        self.close()

    def signal(self, number: int) -> None:
        """Send a signal.  Raises ProcessLookupError when it has ended."""
        if self._pidfd < 0:
            raise ProcessLookupError(self.ident)
        signal.pidfd_send_signal(self._pidfd, number)

    @property
    def pidfd(self) -> int:
        """A descriptor of its first process, -1 when it is gone; borrowed."""
        return self._pidfd

    def duplicate_pidfd(self) -> int:
        """A descriptor of its first process, the caller's; its number may be another's once it has ended.  Raises ProcessLookupError."""
        if self._pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return os.dup(self._pidfd)

    def open_namespace(self, kind: str) -> int:
        """A descriptor of a namespace of its first process (``kind`` as in /proc/PID/ns), the caller's.  Raises OSError: ProcessLookupError
        when that has ended, told or not, and its number may be another's, even one of the host's.
        """
        try:
            fd = os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        if self.has_ended:  # asked after the namespace was opened: it was its own then
            os.close(fd)
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return fd

    @property
    def has_ended(self) -> bool:
        """Whether its first process has, told or not."""
        if self._pidfd < 0:
            return True
        ended = select.poll()  # select(2) knows no descriptor above 1023
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(0))

    def tell_detached(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` for each client that left by its keys, also for those before."""
        self._on_detach = listener
        for _ in range(self._detached):
            listener()

    def close(self) -> None:
        """Let go of the monitor; the container runs on."""
        self._part()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._supervisor.forget(self)

    async def started(self) -> None:
        """Returns once the program executes.  Raises LaunchFailure."""
        try:
            await self._started
        except BaseException:
            self.close()
            raise

    def _on_message(self) -> None:
        while True:
            try:
                body, fds = channel.receive_encoded(self._control)
                message = msgspec.json.decode(body)
            except BlockingIOError:
                return
            except (channel.Closed, OSError, ValueError):
                self._on_loss()
                return
            self._on_event(message, fds)
            if self._parted:
                return

    def _on_event(self, message: Mapping[str, Any], fds: list[int]) -> None:
        match message["event"]:
            case "started":
                self.pid, self.started_at_ns = message["pid"], message["started_at_ns"]
                self._pidfd = fds.pop(0)
                if not self._started.done():
                    self._started.set_result(None)
            case "detached" if self._on_detach is not None:
                self._on_detach()
            case "detached":
                self._detached += 1
            case "failed" if not self._started.done():
                self._started.set_exception(LaunchFailure(message["code"], message["message"]))
            case "exited" if not self._exited.done():
                self._exited.set_result(
                    ExitRecord(
                        code=message["code"],
                        finished_at_ns=message["finished_at_ns"],
                        oom_killed=message["oom_killed"],
                        error=message["error"],
                    )
                )
        for fd in fds:
            os.close(fd)

    def _on_loss(self) -> None:
        """The monitor died: it killed its container with it."""
        self._part()
        if not self._started.done():
            self._started.set_exception(LaunchFailure(128, "the monitor ended before the container started"))
        elif not self._exited.done():
            self.lost = True
            self._exited.set_result(ExitRecord(code=137, finished_at_ns=time.time_ns(), error="the monitor was killed"))

    async def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        async with self._sending:
            try:
                if self._parted:
                    raise channel.Closed
                await send(self._control, message, fds)
            except channel.Closed:
                raise ProcessLookupError(errno.ESRCH, "its monitor is gone") from None
            finally:
                if self._parted:
                    self._control.close()

    def _part(self) -> None:
        """Neither hear nor tell the monitor any more.  Twice is success."""
        if self._parted:
            return
        self._parted = True
        self._loop.remove_reader(self._control.fileno())
        if self._sending.locked():  # whoever waits for room hears of it so, and closes
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
        else:
            self._control.close()


class Supervisor:
    """Starts processes through the zygote, which it replaces when it dies."""

    def __init__(self, groups: str = "") -> None:
        """``groups``: the control group above those of most containers; "": not known, so none is made ahead of time."""
        self._groups = groups
        self._requests: socket.socket | None = None
        self._zygote: asyncio.subprocess.Process | None = None
        self._processes: dict[str, Process] = {}
        self._lock = asyncio.Lock()
        self._closing = False

    async def start(self) -> None:
        """Execute the zygote."""
        ours, theirs = channel.pair()
        ours.setblocking(False)
        with theirs:
            boot = _BOOT.format(path=_ROOT, libraries=_libraries(), fd=theirs.fileno(), groups=self._groups)
            self._zygote = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", boot), pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
            )
        self._requests = ours

    async def run(
        self,
        launch: Launch,
        *,
        netns_fd: int | None = None,
        gate_fd: int | None = None,
        forward_fds: Sequence[int] = (),
        attachments: Sequence[tuple[int, Attachment]] = (),
    ) -> Process:
        """Start a container; returns once its program executes.  All descriptors stay the caller's.  Raises LaunchFailure.

        ``gate_fd``: a pipe that the first process reads a byte from before it executes the program; at its end it gives up.
        """
        message = {
            "op": "run",
            **_fields(launch),
            "log": _fields(launch.log),
            "rootfs": launch.rootfs.to_json(),
            "forwards": [_fields(one) for one in launch.forwards],
            "copy_ups": [_fields(one) for one in launch.copy_ups],
            "has_netns": netns_fd is not None,
            "has_gate": gate_fd is not None,
            "has_pidfd": False,
            "attachments": [_attachment(one) for _, one in attachments],
        }
        fds = [*(fd for fd in (netns_fd, gate_fd) if fd is not None), *forward_fds, *(fd for fd, _ in attachments)]
        return await self._launch(launch.id, message, fds)

    async def execute(self, launch: ExecLaunch, *, attachments: Sequence[tuple[int, Attachment]] = ()) -> Process:
        """Start a further process in a container; returns once its program executes.  Raises LaunchFailure."""
        holder = self._processes.get(launch.container_id)
        if holder is None or holder.pidfd < 0:
            raise LaunchFailure(128, "the container has ended")
        pidfd = holder.duplicate_pidfd()  # the process's number may be another's by the time that it is looked at
        try:
            message = {
                "op": "execute",
                **_fields(launch),
                "has_netns": False,
                "has_gate": False,
                "has_pidfd": True,
                "attachments": [_attachment(one) for _, one in attachments],
            }
            return await self._launch(launch.id, message, [pidfd, *(fd for fd, _ in attachments)])
        finally:
            os.close(pidfd)

    async def adopt(self, ident: str, socket_path: str) -> Process | None:
        """Connect to the monitor of a process started by an earlier daemon.  None: there is none, its ``exit.json`` tells."""
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            control.connect(socket_path)
        except OSError:
            control.close()
            return None
        process = Process(ident, control, self, socket_path)
        try:
            await asyncio.wait_for(process.started(), _ADOPT_S)
        except (LaunchFailure, TimeoutError):
            return None
        self._processes[ident] = process
        return process

    async def task(self, target: Rootfs | Process, name: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Run a function of ``runtime.tasks`` inside a root file system: a ``Rootfs``, or the one of a running process.

        Raises OSError with errno and the path as the container sees it; ProcessLookupError for a process that has ended.
        """
        pidfd = target.duplicate_pidfd() if isinstance(target, Process) else -1
        try:
            message = {
                "op": "task",
                "name": name,
                "arguments": arguments,
                "rootfs": target.to_json() if isinstance(target, Rootfs) else None,
                "has_pidfd": pidfd >= 0,
            }
            return await self._task(message, [*([pidfd] if pidfd >= 0 else []), *fds])
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    async def parse(self, name: str, arguments: dict[str, Any], fds: Sequence[int]) -> socket.socket:
        """Let a confined process run a function of `tree.parsing`: the channel on which it will answer, non-blocking."""
        ours, theirs = channel.pair()
        with theirs:
            try:
                await self._ask(_parsing(name, arguments), [theirs.fileno(), *fds])
            except BaseException:
                ours.close()
                raise
        return ours

    def parse_now(self, name: str, arguments: dict[str, Any], fds: Sequence[int]) -> socket.socket:
        """As ``parse``, for a caller on the loop that can't wait.  Raises OSError when there is no zygote just now."""
        if self._requests is None:
            raise OSError(errno.EAGAIN, "the process that starts others is just being replaced")
        ours, theirs = channel.pair()
        with theirs:
            try:
                channel.send_encoded(self._requests, _parsing(name, arguments), [theirs.fileno(), *fds])
            except BaseException:
                ours.close()
                raise
        return ours

    async def close(self) -> None:
        """Let the zygote go; containers run on."""
        self._closing = True
        for process in list(self._processes.values()):
            process.close()
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._zygote is not None:
            await self._zygote.wait()
            self._zygote = None

    def made_ahead(self, group: str) -> bool:
        """Whether the zygote made the control group of that name for the next start."""
        return self._zygote is not None and group.startswith(f"{SPARE_GROUP}-{self._zygote.pid}-")

    def forget(self, process: Process) -> None:
        """A process let go of."""
        if self._processes.get(process.ident) is process:
            del self._processes[process.ident]

    async def _launch(self, ident: str, message: dict[str, Any], fds: Sequence[int]) -> Process:
        ours, theirs = channel.pair()
        with theirs:
            process = Process(ident, ours, self, message.get("socket_path", ""))
            try:
                rest, profile = filters.split_profile(message)
                if message["op"] == "run":
                    request = channel.request(channel.RUN, _encode(_monitors_part(rest)), _encode(rest), _encode(profile))
                else:
                    request = channel.request(channel.OTHER, _encode(rest), b"", _encode(profile))
                await self._ask(request, [theirs.fileno(), *fds])
            except BaseException:
                process.close()
                raise
        await process.started()
        self._processes[ident] = process
        return process

    async def _task(self, message: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        ours, theirs = channel.pair()
        ours.setblocking(False)
        with ours:
            with theirs:
                await self._ask(channel.request(channel.OTHER, _encode(message)), [theirs.fileno(), *fds])
            await _readable(ours)
            try:
                answer, _ = channel.receive(ours)
            except channel.Closed:
                raise OSError(errno.EIO, f"the {message['name']} task died") from None
        if answer["event"] != "done":
            raise OSError(answer.get("errno", errno.EIO), answer.get("text") or answer.get("message"), answer.get("path"))
        result: dict[str, Any] = answer["result"]
        return result

    async def _ask(self, request: bytes, fds: Sequence[int]) -> None:
        """Send a request; a zygote that is gone is replaced and asked once more."""
        async with self._lock:
            for attempt in (1, 2):
                if self._requests is None:
                    if self._closing:
                        raise RuntimeError("the supervisor is closed")
                    await self.start()
                assert self._requests is not None
                try:
                    await _send(self._requests, request, fds)
                except channel.Closed:
                    self._requests.close()
                    self._requests = None
                    if attempt == 2:
                        raise
                else:
                    return


async def send(target: socket.socket, message: dict[str, Any], fds: Sequence[int]) -> None:
    """`channel.send` that waits while the other side is busy."""
    await _send(target, _encode(message), fds)


async def _send(target: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    while True:
        try:
            channel.send_encoded(target, data, fds)
            return
        except BlockingIOError:
            await _writable(target)


async def _writable(target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _happens(target, loop.add_writer, loop.remove_writer)


async def _readable(target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _happens(target, loop.add_reader, loop.remove_reader)


async def _happens(target: socket.socket, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(target.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        remove(target.fileno())


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _parsing(name: str, arguments: dict[str, Any]) -> bytes:
    """The request for a function of `tree.parsing`."""
    return channel.request(channel.OTHER, _encode({"op": "parse", "name": name, "arguments": arguments}))


def _encode(message: dict[str, Any] | None) -> bytes:
    """`channel.encode`, far quicker: a launch has 20 kB.  Nothing for None."""
    if message is None:
        return b""
    try:
        return msgspec.json.encode(message)
    except UnicodeEncodeError:  # a path that is no UTF-8
        return channel.encode(message)


def _fields(value: Any) -> dict[str, Any]:
    """A spec value's fields, not copied deeply: it goes straight into JSON."""
    return {name: getattr(value, name) for name in value.__slots__}


def _monitors_part(message: dict[str, Any]) -> dict[str, Any]:
    """What a monitor needs of a launch.  It keeps that as long as the container runs; the first process keeps nothing."""
    linux = message["config"].get("linux") or {}
    shown = {name: linux[name] for name in ("namespaces", "cgroupsPath", "resources") if name in linux}
    return {**{name: value for name, value in message.items() if name not in _FIRST_PROCESSES}, "config": {"linux": shown}}


def _attachment(attachment: Attachment) -> dict[str, Any]:
    return {**_fields(attachment), "leftover": attachment.leftover.hex()}


def _libraries() -> list[str]:
    """The directories that hold `_LIBRARIES`: the zygote has no site-packages."""
    specs = [importlib.util.find_spec(name) for name in _LIBRARIES]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin})
