"""The steps that make files: RUN, COPY, ADD, WORKDIR, each carried out on an active snapshot that becomes a layer.

Nothing of a step is left when it fails or is cancelled: its container is killed, its snapshot removed, its mounts were never on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import posixpath
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wherry.build.failures import BuildFailed
from wherry.build.inputs import open_view
from wherry.build.mounts import missing, remove_stubs
from wherry.build.placement import Placement, Unfit
from wherry.build.services import BuildRequest, BuildServices, RunSandbox, RunSpec
from wherry.build.state import State
from wherry.errors import told
from wherry.ids import new_id
from wherry.runtime.supervisor import LaunchFailure, Process
from wherry.spec.digest import Digest, chain_id
from wherry.spec.launch import Attachment, ExitRecord, Launch, LogTarget
from wherry.spec.mounts import Rootfs
from wherry.store.layer import NullSink
from wherry.tree.plan import Plan

log = logging.getLogger(__name__)
T = TypeVar("T")

HOSTNAME = "buildkitsandbox"
_FRAME = struct.Struct(">BxxxI")
_KEPT_OUTPUT = 1 << 16
_MANY = 50  # files: fewer are copied as quickly, into a plain directory, which need not be mounted


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a step made; ``chain`` None: it changed nothing and made no layer."""

    chain: str | None
    diff_id: Digest | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """A RUN, resolved: what is executed and around what.  ``prepare_mounts`` gives the OCI mounts while the step runs."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    network: str
    mounts: Callable[[], contextlib.AbstractAsyncContextManager[Sequence[dict[str, Any]]]]


@dataclass(slots=True)
class Watch:
    """Who is told while a RUN step runs."""

    output: Callable[[bytes, bool], None]
    ran: Callable[[str, bool], None]
    tail: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes, stderr: bool) -> None:
        self.tail += data
        del self.tail[:-_KEPT_OUTPUT]
        self.output(data, stderr)


class Steps:
    """Carries out steps of one build.  ``directory``: the build's own, removed by whoever made it."""

    def __init__(self, services: BuildServices, request: BuildRequest, directory: str) -> None:
        self.services = services
        self.request = request
        self.directory = directory
        self._cleanups: list[asyncio.Future[None]] = []

    async def finish(self) -> None:
        """Wait until what the steps had outside (networks) is gone: that goes on beside the steps that follow."""
        for failure in await whatever_happens(asyncio.gather(*self._cleanups, return_exceptions=True)):
            if isinstance(failure, BaseException):
                log.error("cleaning up after a build step failed: %s", failure)

    async def run(self, state: State, step: RunStep, watch: Watch) -> Layer:
        """Execute a command.  Raises BuildFailed."""

        async def work(rootfs: Rootfs) -> bool:
            async with step.mounts() as mounts:
                dressed = await self.services.dress(rootfs, state.chain)
                targets = [mount["destination"] for mount in mounts]
                stubs = await self.services.blocking(missing, dressed.lower or (rootfs.upper or "",), targets) if targets else ()
                await self._container(dressed, step, mounts, watch)
            if stubs:
                await self.services.blocking(remove_stubs, rootfs.upper or "", stubs)
            return True

        return await self._layer(state, work)

    async def place(self, state: State, plan: Plan, fds: Sequence[int]) -> Layer:
        """Copy files.  Raises BuildFailed."""
        if self.services.snapshotter.keeps_tars and sum(len(item.packed) for item in plan.items) >= _MANY:
            layer = await whatever_happens(self.services.blocking(self._place_at_once, state, plan, fds))
            if layer is not None:
                return layer

        async def work(rootfs: Rootfs) -> bool:
            await self._task(rootfs, "place", plan.to_json(), fds)
            return True

        return await self._layer(state, work)

    def _place_at_once(self, state: State, plan: Plan, fds: Sequence[int]) -> Layer | None:
        """Many files as one tar; None where they must be copied one by one, which also says what is wrong."""
        root_fd = open_view(self.services, state.chain, self.directory)
        try:
            placement = Placement(root_fd, plan, fds)
        except (Unfit, LookupError, ValueError):
            return None
        finally:
            os.close(root_fd)
        facts = self.services.snapshotter.compose(state.chain, placement)
        chain = chain_id([*state.diff_ids, facts.diff_id])
        return Layer(chain=str(chain), diff_id=facts.diff_id, size_bytes=facts.size_bytes)

    async def workdir(self, state: State, path: str, user: str) -> Layer:
        """Make a directory; no layer when it is there already.  Raises BuildFailed."""

        async def work(rootfs: Rootfs) -> bool:
            answer = await self._task(rootfs, "workdir", {"path": path, "owner": user}, ())
            return bool(answer["made"])

        return await self._layer(state, work)

    async def _task(self, rootfs: Rootfs, name: str, arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        try:
            return await whatever_happens(self.services.supervisor.task(rootfs, name, arguments, fds))
        except OSError as error:
            path = f"{error.filename}: " if error.filename else ""
            raise BuildFailed(f"{path}{error.strerror or error}") from error

    async def _layer(self, state: State, work: Callable[[Rootfs], Awaitable[bool]]) -> Layer:
        """Do ``work`` on a fresh snapshot; when it says that it made something, that becomes a layer."""
        snapshotter, blocking = self.services.snapshotter, self.services.blocking
        key = f"build-{new_id()}"
        try:
            rootfs = await whatever_happens(blocking(snapshotter.prepare, key, state.chain))
            if await work(rootfs):
                return await whatever_happens(blocking(self._seal, key, state.diff_ids))
        except BaseException:
            await whatever_happens(blocking(snapshotter.remove, key))
            raise
        await whatever_happens(blocking(snapshotter.remove, key))
        return Layer(chain=None)

    def _seal(self, key: str, below: tuple[Digest, ...]) -> Layer:
        snapshotter = self.services.snapshotter
        try:
            facts = snapshotter.pack(key, NullSink())
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise BuildFailed(f"what the step has written is too much for a layer: {told(error)}") from error
        chain = chain_id([*below, facts.diff_id])
        snapshotter.commit(key, chain)
        return Layer(chain=str(chain), diff_id=facts.diff_id, size_bytes=facts.size_bytes)

    async def _container(self, rootfs: Rootfs, step: RunStep, mounts: Sequence[dict[str, Any]], watch: Watch) -> None:
        ident = new_id()
        spec = RunSpec(
            id=ident,
            args=step.args,
            env=step.env,
            cwd=step.cwd,
            user=step.user,
            network=step.network,
            hostname=HOSTNAME,
            mounts=tuple(mounts),
            extra_hosts=self.request.extra_hosts,
            limits=self.request.limits,
        )
        sandbox = await self.services.sandbox(spec)
        try:
            watch.ran(ident, False)
            exit_record = await self._program(ident, rootfs, step, sandbox, watch)
        finally:
            self._cleanups.append(asyncio.ensure_future(sandbox.cleanup()))
            watch.ran(ident, True)
        if exit_record.code:
            raise _returned(step.args, exit_record)

    async def _program(self, ident: str, rootfs: Rootfs, step: RunStep, sandbox: RunSandbox, watch: Watch) -> ExitRecord:
        """Start the program, pass its output on, and give its exit; killed when the build is cancelled."""
        record_dir = os.path.join(self.directory, ident[:12])
        os.mkdir(record_dir, 0o700)
        launch = Launch(
            id=ident,
            config=sandbox.config,
            rootfs=rootfs,
            record_dir=record_dir,
            socket_path="",  # a build ends with its daemon: nobody looks for its program
            log=LogTarget(driver="none"),
            user=step.user,
            lasting=False,
        )
        ours, theirs = socket.socketpair()
        attachment = Attachment(stdin=False, stdout=True, stderr=True)
        try:
            with theirs:
                launching = self.services.supervisor.run(launch, netns_fd=sandbox.netns_fd, attachments=[(theirs.fileno(), attachment)])
                process = await _started(launching)
        except LaunchFailure as failure:
            ours.close()
            raise _not_started(step.args, failure) from failure
        except BaseException:
            ours.close()
            raise
        try:
            async for data, stderr in _frames(ours):
                watch.write(data, stderr)
            return await process.wait()
        except BaseException:
            await whatever_happens(_kill(process))
            raise
        finally:
            await whatever_happens(process.acknowledge())


async def _frames(connection: socket.socket) -> AsyncIterator[tuple[bytes, bool]]:
    """Docker's multiplexed stream: (data, whether it is standard error), until the other side closes."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
    try:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                stream, length = _FRAME.unpack(await reader.readexactly(_FRAME.size))
                while length:
                    data = await reader.read(min(length, 1 << 16))
                    if not data:
                        return
                    length -= len(data)
                    yield data, stream == 2
    finally:
        writer.close()


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.signal(signal.SIGKILL)
    await process.wait()


async def whatever_happens(work: Awaitable[T]) -> T:
    """Finish ``work`` even when the build is being cancelled, and only then let the cancellation go on: a thread can't be stopped."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise


async def _started(work: Awaitable[Process]) -> Process:
    """A launch that, when it is cancelled half-way, kills what it started."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if task.exception() is None:
            await _kill(task.result())
            await task.result().acknowledge()
        raise


def _returned(args: Sequence[str], exit_record: ExitRecord) -> BuildFailed:
    words = " ".join(args)
    oom = "cannot allocate memory: the step was killed for using more than its limit" if exit_record.oom_killed else ""
    return BuildFailed(
        f"The command '{words}' returned a non-zero code: {exit_record.code}" + (f" ({oom})" if oom else ""),
        detail=f'process "{words}" did not complete successfully: exit code: {exit_record.code}' + (f": {oom}" if oom else ""),
        code=exit_record.code,
    )


def _not_started(args: Sequence[str], failure: LaunchFailure) -> BuildFailed:
    """Docker's builder tells no code here: the client ends with 1."""
    return BuildFailed(failure.message, detail=f'process "{" ".join(args)}" did not complete successfully: {failure.message}')


def staging_file(directory: str, name: str, content: bytes, mode: int) -> str:
    """A file of the build's own."""
    path = os.path.join(directory, name)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
    return path


def joined(workdir: str, path: str) -> tuple[str, bool]:
    """COPY's destination as an absolute path, and whether it can only be a directory."""
    is_directory = path.endswith("/") or posixpath.basename(path) in (".", "..", "")
    absolute = posixpath.normpath(posixpath.join("/", workdir, path))
    return absolute.replace("//", "/"), is_directory
