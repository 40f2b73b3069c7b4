"""Operations on containers, as the API asks for them (``api/ports.Containers``)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial

from wherry.containers import present, top, update
from wherry.containers.container import Container
from wherry.containers.create import discard_what_v2_lacks, signal_number
from wherry.containers.lifecycle import Status
from wherry.containers.logs import LogQuery
from wherry.engine import container_changes, container_logs, container_stats
from wherry.engine.container_files import ContainerFiles
from wherry.engine.container_filters import PRUNE_KEYS, ContainerFilter, check_keys, has_labels
from wherry.engine.creating import Creating
from wherry.engine.execs import DEFAULT_DETACH_KEYS, Execs, is_pressable
from wherry.engine.rooms import Rooms
from wherry.engine.running import Running
from wherry.errors import Conflict, EngineError, InvalidRequest, NotFound
from wherry.images.blocking import produce
from wherry.kernel import cgroup
from wherry.spec.docker.container import (
    ContainerCreate,
    ContainerCreated,
    ContainerInspect,
    ContainersPruned,
    ContainerSummary,
    ContainerTop,
    ContainerUpdate,
    ContainerUpdated,
    ContainerWaited,
    PathStat,
    PortBinding,
)
from wherry.spec.docker.exec import ExecCreate, ExecInspect, ExecStart
from wherry.spec.docker.network import EndpointSettings
from wherry.spec.docker.request import ArchiveRequest, AttachRequest, Filters, Hijack, LogRequest, LogStream
from wherry.spec.docker.stats import ContainerStats
from wherry.spec.launch import Attachment
from wherry.spec.moment import until_ns
from wherry.store.snapshot import SnapshotMissing

CONDITIONS = ("not-running", "next-exit", "removed")
STATS_EVERY_S = 1.0


class ContainerOperations:
    """What the API can ask of containers; the flows stand in ``running``, ``creating`` and ``execs``."""

    rooms: Rooms
    running: Running
    creating: Creating
    execs: Execs
    files: ContainerFiles

    # --- look

    async def list_containers(
        self, *, all: bool, limit: int, size: bool, filters: Filters, since: str, before: str
    ) -> Sequence[ContainerSummary]:
        merged = {**filters, **({"since": (since,)} if since else {}), **({"before": (before,)} if before else {})}
        chosen = ContainerFilter(
            merged,
            find=self.rooms.containers.get,
            ancestors=self._ancestors,
            published=self._published,
            networks=lambda container: {name for name, end in self._endpoints(container).items() for name in (name, end.network_id)},
        )
        everything = all or limit > 0 or chosen.wants_all
        rows = [
            one
            for one in self.rooms.containers.all()
            if (everything or one.is_running or one.status is Status.RESTARTING) and chosen.accepts(one)
        ]
        rows = rows[:limit] if limit > 0 else rows
        now_ns = time.time_ns()
        known: dict[str, str | None] = {}
        summaries = [self._summary(one, now_ns, known) for one in rows]
        if size:
            for one, summary in zip(rows, summaries, strict=True):
                summary.size_rw, summary.size_root_fs = await self._sizes(one)
        return summaries

    def _summary(self, container: Container, now_ns: int, known: dict[str, str | None]) -> ContainerSummary:
        reference = container.record.config.image
        if reference not in known:
            known[reference] = self._image_id(reference)
        return present.summary(
            container,
            image=present.image_reference(container.record, known[reference]),
            endpoints=self._endpoints(container),
            published=self._published(container),
            now_ns=now_ns,
        )

    def _image_id(self, reference: str) -> str | None:
        try:
            return self.rooms.images.resolve(reference).id
        except EngineError:
            return None

    def _ancestors(self, reference: str) -> set[str]:
        """Ids of the images that are ``reference`` or were made from it."""
        wanted = self._image_id(reference)
        if wanted is None:
            return set()
        layers = self.rooms.images.get(wanted).diff_ids
        return {image.id for image in self.rooms.images.list(every=True) if image.diff_ids[: len(layers)] == layers}

    def _endpoints(self, container: Container) -> Mapping[str, EndpointSettings]:
        return self.running.wiring.endpoints(container)

    def _published(self, container: Container) -> Mapping[str, Sequence[PortBinding]]:
        return self.running.wiring.published(container)

    async def _sizes(self, container: Container) -> tuple[int, int]:
        try:
            own = await self.rooms.attendants.run(self.rooms.snapshotter.usage, container.record.snapshot)
        except SnapshotMissing:  # it is being removed
            own = 0
        try:
            base = self.rooms.images.resolve(container.record.image_id).size_bytes
        except EngineError:
            base = 0
        return own, own + base

    async def inspect_container(self, ref: str, *, size: bool) -> ContainerInspect:
        container = self.rooms.containers.get(ref)
        rooms = self.rooms
        graph: dict[str, str] = {}
        with suppress(SnapshotMissing):  # told by `system fsck`; the container can be looked at and removed
            rootfs = rooms.snapshotter.rootfs(container.record.snapshot)
            graph = {"LowerDir": ":".join(rootfs.lower), "UpperDir": rootfs.upper or "", "WorkDir": rootfs.work or ""}
        body = present.inspect(
            container,
            folder=rooms.containers.folder(container.id),
            log_path=rooms.containers.log_path(container.record) if container.record.host_config.log_config.type == "json-file" else "",
            driver=rooms.snapshotter.name,
            graph=graph,
            endpoints=self._endpoints(container),
            published=self._published(container),
            sandbox_id=self.running.wiring.sandbox_id(container),
        )
        if size:
            body.size_rw, body.size_root_fs = await self._sizes(container)
        return body

    async def container_top(self, ref: str, *, arguments: str) -> ContainerTop:
        container = self.rooms.containers.get(ref)
        if container.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.is_running:
            raise Conflict(f"container {container.id} is not running")
        try:
            pids = await self.rooms.workers.run(cgroup.processes, self.rooms.cgroups, self.running.cgroups_path(container))
        except FileNotFoundError:
            raise Conflict(f"container {container.id} is not running") from None
        titles, rows = await self.rooms.workers.run(top.table, pids, arguments or "-ef")
        self._publish(container, "top")
        return ContainerTop(titles=titles, processes=rows)

    async def container_logs(self, ref: str, request: LogRequest) -> LogStream:
        container = self.rooms.containers.get(ref)
        if not request.stdout and not request.stderr:
            raise InvalidRequest("Bad parameters: you must choose at least one stream")
        path = self.rooms.containers.log_path(container.record)
        if not path:
            raise InvalidRequest("configured logging driver does not support reading")
        tty = container.record.config.tty
        query = LogQuery(
            stdout=request.stdout,
            stderr=request.stderr,
            since_ns=request.since_ns,
            until_ns=request.until_ns,
            tail=request.tail,
            timestamps=request.timestamps,
            details=request.details,
            follow=request.follow,
            multiplexed=not tty,
        )
        return LogStream(tty=tty, chunks=container_logs.stream(self.rooms, container, path, query))

    async def container_changes(self, ref: str) -> AsyncIterator[bytes]:
        container = self.rooms.containers.get(ref)
        hidden = frozenset(mount.destination for mount in container.record.mounts)
        changes = self.rooms.snapshotter.changes(container.record.snapshot)
        return _while_there(ref, produce(self.rooms.attendants.run, partial(container_changes.write, changes, hidden)))

    async def container_stats(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncIterator[ContainerStats]:
        container = self.rooms.containers.get(ref)
        return self._samples(container, stream=stream, one_shot=one_shot)

    async def _samples(self, container: Container, *, stream: bool, one_shot: bool) -> AsyncIterator[ContainerStats]:
        before: ContainerStats | None = None
        while True:
            try:
                now = await self.rooms.workers.run(container_stats.sample, self.rooms, container, self.running.cgroups_path(container))
            except FileNotFoundError:  # it ended between the look and the reading
                now = ContainerStats(name=f"/{container.name}", id=container.id)
            if before is not None:
                now.precpu_stats, now.preread = before.cpu_stats, before.read
            if stream or before is not None or one_shot or not container.is_running:
                yield now
                if not stream:
                    return
            if container.status in (Status.REMOVING, Status.DEAD):
                return
            before = now
            await asyncio.sleep(STATS_EVERY_S)

    # --- make and change

    async def create_container(self, body: ContainerCreate, *, name: str, platform: str) -> ContainerCreated:
        discarded = discard_what_v2_lacks(body.host_config) if self.rooms.cgroups.v2 and body.host_config else []
        container = await self.creating.create(body, name=name, platform=platform)
        return ContainerCreated(id=container.id, warnings=discarded + self._warnings(container, body))

    def _warnings(self, container: Container, body: ContainerCreate) -> list[str]:
        host = container.record.host_config
        found = []
        if body.mac_address:
            found.append("The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.")
        if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
            found.append("Published ports are discarded when using host network mode")
        if any(mount.type == "image" for mount in container.record.mounts):
            found.append("Image mount is an experimental feature")
        if host.oom_kill_disable and not host.memory:
            found.append(
                "OOM killer is disabled for the container, but no memory limit is set, "
                "this can result in the system running out of resources."
            )
        return found

    async def rename_container(self, ref: str, *, name: str) -> None:
        container = self.rooms.containers.get(ref)
        if not name:
            raise InvalidRequest("Neither old nor new names may be empty")

        async def rename() -> None:
            if container.status is Status.REMOVING:
                raise NotFound(f"No such container: {ref}")
            try:
                old = self.rooms.containers.rename(container, name)
            except (Conflict, InvalidRequest) as error:
                if name.removeprefix("/") == container.name:
                    raise
                raise type(error)(f"Error when allocating new name: {error}") from error
            self.rooms.networks.rename(container.id, container.name)
            self._publish(container, "rename", oldName=f"/{old}")

        await container.perform(rename)

    async def update_container(self, ref: str, body: ContainerUpdate) -> ContainerUpdated:
        update.check(body, cpus=len(os.sched_getaffinity(0)))
        container = self.rooms.containers.get(ref)
        await container.perform(lambda: self._update(container, body))
        return ContainerUpdated(warnings=None)

    async def _update(self, container: Container, body: ContainerUpdate) -> None:
        await self.running.update(container, body)
        self._publish(container, "update")

    # --- run

    async def start_container(self, ref: str) -> None:
        await self.running.start(self.rooms.containers.get(ref))

    async def stop_container(self, ref: str, *, signal: str, timeout_s: int | None) -> None:
        await self.running.stop(self.rooms.containers.get(ref), signal=signal, timeout_s=timeout_s, called=ref)

    async def restart_container(self, ref: str, *, signal: str, timeout_s: int | None) -> None:
        container = self.rooms.containers.get(ref)
        try:
            signal_number(signal or "SIGTERM")
        except InvalidRequest as error:
            raise InvalidRequest(f"Cannot restart container {ref}: {error}") from None
        await self.running.restart(container, signal=signal, timeout_s=timeout_s, called=ref)

    async def kill_container(self, ref: str, *, signal: str) -> None:
        try:
            container = self.rooms.containers.get(ref)
        except NotFound as error:
            raise NotFound(f"cannot kill container: {ref}: {error}") from error
        await self.running.kill(container, signal=signal, called=ref)

    async def pause_container(self, ref: str) -> None:
        await self.running.pause(self.rooms.containers.get(ref))

    async def unpause_container(self, ref: str) -> None:
        await self.running.unpause(self.rooms.containers.get(ref))

    async def wait_container(self, ref: str, *, condition: str) -> Awaitable[ContainerWaited]:
        container = self.rooms.containers.get(ref)
        if (condition or "not-running") not in CONDITIONS:
            raise InvalidRequest(f'invalid condition: "{condition}"')
        return container.watch(condition or "not-running")

    async def resize_container(self, ref: str, *, height: int, width: int) -> None:
        container = self.rooms.containers.get(ref)
        if container.process is None:
            raise Conflict(f"container {container.id} is not running")
        await container.process.resize(height, width)
        self._publish(container, "resize", height=str(height), width=str(width))

    async def attach_container(self, ref: str, request: AttachRequest, hijack: Hijack) -> None:
        container = self.rooms.containers.get(ref)
        if container.status is Status.PAUSED:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        if container.status is Status.RESTARTING:
            raise Conflict(f"container {ref} is restarting, wait until the container is running")
        if not is_pressable(request.detach_keys):
            raise InvalidRequest(f"Invalid detach keys ({request.detach_keys}) provided")
        tty = container.record.config.tty
        taken = await hijack(tty)
        if request.logs:
            await self._replay(container, request, taken.fd)
        if not request.stream or not (request.stdin or request.stdout or request.stderr):
            return
        attachment = Attachment(
            stdin=request.stdin and container.record.config.open_stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            detach_keys=request.detach_keys or DEFAULT_DETACH_KEYS,
            leftover=taken.leftover,
            multiplexed=request.multiplexed and not tty,
        )
        self._publish(container, "attach")
        if container.process is not None:
            await container.process.attach(taken.fd, attachment)
        elif container.status is Status.CREATED or not container.is_running:
            container.hold(taken.fd, attachment)

    async def _replay(self, container: Container, request: AttachRequest, fd: int) -> None:
        """What was written so far, to the client."""
        path = self.rooms.containers.log_path(container.record)
        query = LogQuery(stdout=request.stdout, stderr=request.stderr, multiplexed=request.multiplexed and not container.record.config.tty)
        if path:
            await self.rooms.attendants.run(_copy_log, container, path, query, fd)

    async def remove_container(self, ref: str, *, volumes: bool, force: bool, link: bool) -> None:
        if link:
            return await self._remove_link(ref)
        container = self.rooms.containers.get(ref)
        await self.running.removal.remove(container, volumes=volumes, force=force, called=ref)

    async def _remove_link(self, ref: str) -> None:
        """Forget a `--link`, named by the container that has it and its alias: `web/db`."""
        name, _, alias = ref.strip("/").rpartition("/")
        if not name:
            self.rooms.containers.get(ref)
            raise Conflict("Conflict, cannot remove the default link name of the container")
        missing = NotFound(f"No such container: {ref}")
        try:
            container = self.rooms.containers.get(name)
        except NotFound:
            raise missing from None

        async def forget() -> None:
            record = container.record
            aliases = [one for _, one in record.links]
            if alias not in aliases:
                raise missing
            number = aliases.index(alias)
            host = copy(record.host_config)
            host.links = [text for index, text in enumerate(host.links or ()) if index != number] or None
            record.links = [link for index, link in enumerate(record.links) if index != number]
            record.host_config = host
            self.rooms.containers.save(container)

        await container.perform(forget)

    async def prune_containers(self, filters: Filters) -> ContainersPruned:
        removed, reclaimed = [], 0
        for container in self.prunable_containers(filters):
            own, _ = await self._sizes(container)
            try:
                await self.running.removal.remove(container, volumes=False, force=False, called=container.name)
            except (Conflict, NotFound):
                continue  # it was started or removed meanwhile
            removed.append(container.id)
            reclaimed += own
        self.rooms.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return ContainersPruned(containers_deleted=removed or None, space_reclaimed=reclaimed)

    def prunable_containers(self, filters: Filters) -> list[Container]:
        """What a prune removes."""
        check_keys(filters, PRUNE_KEYS)
        before = until_ns(filters)
        chosen = []
        for container in self.rooms.containers.all():
            labels = container.record.config.labels or {}
            if container.status not in (Status.CREATED, Status.EXITED, Status.DEAD) or not has_labels(labels, filters.get("label", ())):
                continue
            if any(has_labels(labels, (wanted,)) for wanted in filters.get("label!", ())):
                continue
            if before is None or container.record.created_ns <= before:
                chosen.append(container)
        return chosen

    # --- files

    async def export_container(self, ref: str) -> AsyncIterator[bytes]:
        container = self.rooms.containers.get(ref)
        self._publish(container, "export")
        return await self.files.export(container)

    async def stat_path(self, ref: str, path: str) -> PathStat:
        return await self.files.stat(self.rooms.containers.get(ref), path, called=ref)

    async def get_archive(self, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        container = self.rooms.containers.get(ref)
        result = await self.files.get(container, path, called=ref)
        self._publish(container, "archive-path")
        return result

    async def put_archive(self, ref: str, request: ArchiveRequest, chunks: AsyncIterator[bytes]) -> None:
        container = self.rooms.containers.get(ref)
        await self.files.put(container, request, chunks, called=ref)
        self._publish(container, "extract-to-dir")

    # --- exec

    async def create_exec(self, ref: str, body: ExecCreate) -> str:
        container = self.rooms.containers.get(ref)
        await self.execs.check_user(container, body.user)
        return self.execs.create(container, body, called=ref).id

    async def start_exec(self, ident: str, body: ExecStart, hijack: Hijack | None) -> None:
        await self.execs.start(self.rooms.containers.exec_named(ident), body, hijack)

    async def resize_exec(self, ident: str, *, height: int, width: int) -> None:
        item = self.rooms.containers.exec_named(ident)
        if item.process is None or not item.running:
            raise NotFound(f"NotFound: process does not exist {ident}: not found")
        try:
            await item.process.resize(height, width)
        except ProcessLookupError:
            raise NotFound(f"NotFound: process does not exist {ident}: not found") from None

    async def inspect_exec(self, ident: str) -> ExecInspect:
        item = self.rooms.containers.exec_named(ident)
        await self.execs.settled(item)
        return self.execs.inspect(item)

    def _publish(self, container: Container, action: str, **more: str) -> None:
        self.rooms.events.publish("container", action, container.id, present.attributes(container.record, **more))


async def _while_there(ref: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except SnapshotMissing as error:  # it is being removed
        raise NotFound(f"No such container: {ref}") from error


def _copy_log(container: Container, path: str, query: LogQuery, fd: int) -> None:
    os.set_blocking(fd, True)
    with container_logs.reader(container, path, query) as reader:
        for data in reader.read_all():
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
    os.set_blocking(fd, False)
