"""Files of a container: stat, `cp` in and out, export.  All work on them is done by a task inside the container's own root."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from wherry.containers.container import Container
from wherry.containers.lifecycle import Status
from wherry.containers.present import rfc3339
from wherry.engine.feeding import drain, through_file
from wherry.engine.image_mounts import place_of_part
from wherry.engine.rooms import Rooms
from wherry.errors import Forbidden, Internal, InvalidRequest, NotFound
from wherry.images.compression import PlainReader
from wherry.runtime.supervisor import Process
from wherry.spec.docker.container import PathStat
from wherry.spec.docker.request import ArchiveRequest
from wherry.spec.mounts import Rootfs
from wherry.store.layer import write_all
from wherry.store.parsing import Start, wide_pipe
from wherry.store.snapshot import SnapshotMissing
from wherry.tree.compression import BadStream
from wherry.tree.tar import Source

log = logging.getLogger(__name__)
# Go's os.FileMode bits, which the stat header carries.  Source: Go's io/fs.
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}
COPY_BYTES = 1 << 18
T = TypeVar("T")


class ContainerFiles:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def _place(self, container: Container, path: str) -> tuple[Rootfs | Process, str, str]:
        """Where a path is worked on: the running container's own mounts; else its layer, or the volume or bind the path lies in.

        The third: what forbids writing, "" where nothing does.
        """
        clean = posixpath.normpath("/" + path.lstrip("/"))
        keep = clean if not path.rstrip("/").endswith("/.") and not path.endswith("/") else f"{clean.rstrip('/')}/."
        holders = [mount for mount in container.record.mounts if mount.type != "tmpfs" and _is_within(clean, mount.destination)]
        holder = max(holders, key=lambda mount: len(mount.destination), default=None)
        read_only = holder.read_only if holder else container.record.host_config.readonly_rootfs
        closed = "" if not read_only else "mounted volume" if holder else "container rootfs"
        if container.process is not None:
            return container.process, keep, closed
        if holder is not None and os.path.isdir(holder.source):
            inside = keep.removeprefix(holder.destination) or "/."
            if holder.subpath and holder.type == "volume":
                part, is_directory = await self._rooms.workers.run(place_of_part, holder.source, holder)
                inside = f"/{part}{inside}" if is_directory or inside != "/." else f"/{part}"
            return Rootfs(upper=holder.source), inside, closed
        return await self._dressed(container), keep, closed

    def _turn(self, container: Container) -> asyncio.Lock:
        """Whose it is may mount the layer of a container that does not run to write: the kernel takes one such mount at a time."""
        lock = self._turns.get(container.id)
        if lock is None:
            self._turns[container.id] = lock = asyncio.Lock()
        return lock

    async def _dressed(self, container: Container) -> Rootfs:
        return await self._rooms.furniture.dress(self._rooms.snapshotter.rootfs(container.record.snapshot), container.record.chain)

    async def _there(self, container: Container, path: str, work: Callable[[Rootfs | Process, str, str], Awaitable[T]]) -> T:
        """Do ``work`` with what `_place` says; once more where the container has ended meanwhile, whose own mounts went with it."""
        try:
            try:
                return await work(*await self._place(container, path))
            except ProcessLookupError:
                await container.hear_of_end()  # unless it runs, and it was something in it that is gone
                return await work(*await self._place(container, path))
        except (OSError, SnapshotMissing) as error:
            if container.status is Status.REMOVING:
                raise NotFound(f"No such container: {container.id}") from error
            raise

    async def stat(self, container: Container, path: str, *, called: str) -> PathStat:
        """Raises NotFound: `Could not find the file X in container Y`.  ``called``: how the client named it."""
        try:
            facts = await self._there(
                container, path, lambda target, inside, _: self._rooms.supervisor.task(_to_read(target), "stat", {"path": inside})
            )
        except OSError as error:
            raise _missing(called, path, error) from error
        return PathStat(
            name=posixpath.basename(posixpath.normpath(path)) or "/",
            size=facts["size"],
            mode=go_mode(facts["mode"]),
            mtime=rfc3339(facts["mtime_ns"]),
            link_target=_from_root(path, facts["link_target"]),
        )

    async def get(self, container: Container, path: str, *, called: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        """The stat and a tar of the path, whose first name is the path's last component."""
        facts = await self.stat(container, path, called=called)
        content_only = path.rstrip("/").endswith("/.") or path in (".", "")
        name = "." if content_only else facts.name.strip("/") or "."

        def pack(target: Rootfs | Process, inside: str, _: str, writer: int) -> Awaitable[Mapping[str, object]]:
            return self._rooms.supervisor.task(_to_read(target), "pack", {"path": inside, "name": name}, [writer])

        return facts, self._packed(container, lambda writer: self._there(container, path, partial(pack, writer=writer)))

    async def put(self, container: Container, request: ArchiveRequest, chunks: AsyncIterator[bytes], *, called: str) -> None:
        """Unpack an archive in any compression into the directory ``request.path``."""

        async def what_forbids(_target: Rootfs | Process, _inside: str, closed: str) -> str:
            return closed

        facts = await self.stat(container, request.path, called=called)
        if holding := await self._there(container, request.path, what_forbids):
            raise Forbidden(f"{holding} is marked read-only")
        if facts.mode & _GO_KINDS[stat.S_IFDIR] == 0 and not facts.link_target:
            raise InvalidRequest("extraction point is not a directory")
        user = container.record.config.user if request.copy_ids else ""
        arguments = {"keep_kinds": request.keep_kind, "user": user}

        async def unpack(file: Source) -> None:
            async with self._turn(container):
                await self._unpack(container, request.path, arguments, file)

        await through_file(chunks, unpack)

    async def _unpack(self, container: Container, path: str, arguments: dict[str, object], file: Source) -> None:
        """Decompress outside of the container's root; unpack in a task inside."""

        def unpack(target: Rootfs | Process, inside: str, _: str) -> Awaitable[object]:
            place = {"path": inside.removesuffix("/.") or "/"}
            return self._rooms.supervisor.task(target, "unpack", {**arguments, **place}, [reader])

        reader, writer = wide_pipe()
        copying = asyncio.ensure_future(self._rooms.attendants.run(_copy_plain, file, writer, self._rooms.start))
        try:
            await self._there(container, path, unpack)
        except OSError as error:
            raise _refused(container, error) from error
        finally:
            os.close(reader)
            outcome = (await asyncio.gather(copying, return_exceptions=True))[0]
        if isinstance(outcome, BadStream):
            raise InvalidRequest(f"Error processing tar file: {outcome}")

    async def export(self, container: Container) -> AsyncIterator[bytes]:
        """The whole root as a flat tar, without what is mounted on it."""
        rootfs = _to_read(await self._dressed(container))
        return self._packed(container, lambda writer: self._rooms.supervisor.task(rootfs, "pack", {"path": "/.", "name": ""}, [writer]))

    async def _packed(self, container: Container, pack: Callable[[int], Awaitable[Mapping[str, object]]]) -> AsyncIterator[bytes]:
        """What ``pack`` writes to the descriptor that it is given."""
        reader, writer = wide_pipe()
        task = asyncio.ensure_future(pack(writer))
        task.add_done_callback(lambda _: os.close(writer))  # the end of the stream: the task's own copy went with it
        try:
            async for chunk in drain(reader, size=COPY_BYTES):
                yield chunk
            if left_out := (await task).get("left_out"):
                log.warning("container %s: too deep for any path, and left out of an archive: %d", container.name, left_out)
        except OSError as error:
            if container.status is Status.REMOVING:
                raise NotFound(f"No such container: {container.id}") from error
            raise Internal(str(error)) from error
        finally:
            if not task.done():
                task.cancel()


def _copy_plain(file: Source, writer: int, start: Start) -> None:
    """What ``file`` holds, without its compression, into ``writer``, which is closed."""
    with os.fdopen(writer, "wb", buffering=0) as out, PlainReader(file, start) as plain:
        try:
            while data := plain.read1():
                write_all(out, data)
        except BrokenPipeError:
            while file.read(COPY_BYTES):
                pass  # the task has failed and says why; the client's stream is still taken to its end


def _to_read(target: T) -> T | Rootfs:
    """Without a mount that can be written: a container that runs, or whoever copies into it, keeps the only one."""
    if isinstance(target, Rootfs) and target.lower and target.upper is not None:
        return Rootfs(lower=(target.upper, *target.lower))
    return target


def _from_root(path: str, target: str) -> str:
    """A link's target as a path from the container's root, as Docker tells it."""
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(path.rstrip("/")), target)) if target else ""


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def go_mode(mode: int) -> int:
    """A st_mode as Go's FileMode."""
    return stat.S_IMODE(mode) & 0o777 | _GO_KINDS.get(stat.S_IFMT(mode), 0) | sum(bit for unix, bit in _GO_BITS.items() if mode & unix)


def _missing(called: str, path: str, error: OSError) -> Exception:
    if error.errno == errno.ENOTDIR:
        return Internal(f"lstat /{path.lstrip('/')}: not a directory")
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return NotFound(f"Could not find the file {path} in container {called}")
    return _told(error)


def _refused(container: Container, error: OSError) -> Exception:
    """Docker's words for what may go wrong while unpacking."""
    if error.errno == errno.EBADMSG:
        return InvalidRequest(error.strerror)
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL):
        return InvalidRequest(f"cannot overwrite: {error.strerror or error}")
    if error.errno in (errno.EROFS,):
        return Forbidden("container rootfs is marked read-only")
    return _told(error)


def _told(error: OSError) -> Exception:
    """What a container's own tree or an archive brought about is no bug of ours."""
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    return Internal(f"{error.filename}: {text}" if error.filename else text)
