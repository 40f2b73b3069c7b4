"""Builds and their cache, as the API asks for them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from wherry.build import cache, cache_mounts
from wherry.build.packed import PackedContext
from wherry.build.progress import ClassicRecords, Happening, PlainRecords
from wherry.build.services import BuildRequest, BuildServices, Limits, RunSandbox, RunSpec
from wherry.build.solve import build
from wherry.containers import oci
from wherry.containers.create import check_resources, complete_host_config
from wherry.containers.record import ContainerRecord, State
from wherry.engine import remote_context
from wherry.engine.cache_choice import cache_choice
from wherry.engine.feeding import through_file
from wherry.engine.gate import Gate
from wherry.engine.rooms import Rooms
from wherry.engine.unreadable import holds_garbage
from wherry.engine.wiring import networking, open_namespace, running_other, write_fresh
from wherry.errors import EngineError, InvalidRequest, NotSupported
from wherry.images.compression import PlainReader
from wherry.images.progress import stream
from wherry.kernel import cgroup
from wherry.networks import files
from wherry.networks.sandbox import Sandbox, SandboxRequest
from wherry.registry.transport import reason
from wherry.spec.docker.build import BuildParameters, BuildPruned
from wherry.spec.docker.container import Config, HostConfig
from wherry.spec.docker.network import EndpointSettings
from wherry.spec.docker.request import CachePrune, Filters
from wherry.spec.docker.system import AuthConfig
from wherry.spec.settings import Settings
from wherry.store.parsing import Start
from wherry.tree.compression import BadStream
from wherry.tree.remove import remove
from wherry.tree.tar import InvalidArchive, Source

log = logging.getLogger(__name__)
Progress = Mapping[str, object]
QUIET_S = 0.2  # without a build, before what builds left is removed; it is not put off for more than ten times as long
QUIET_TRIES = 10


class BuildOperations:
    rooms: Rooms
    builds: dict[str, asyncio.Task[object]]
    build_services: BuildServices
    gate: Gate
    building = 0  # builds under way
    removals_put_off = False  # layers that nobody needs were kept, for a build may stand on them

    def keeps_layers(self) -> bool:
        """Whether layers must stay now, whatever is removed; they are looked at again after the last build."""
        self.removals_put_off |= self.building > 0
        return self.building > 0

    async def build_image(
        self, parameters: BuildParameters, auths: Mapping[str, AuthConfig], chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[Progress]:
        if parameters.outputs:
            raise NotSupported("--output is not supported")
        if parameters.progress not in ("", "plain"):
            raise InvalidRequest(f"progress is plain, or not said: {parameters.progress}")
        if parameters.remote:
            remote_context.check(parameters.remote)
            chunks = remote_context.pieces(parameters.remote, self.rooms.settings.proxies, parameters.dockerfile)
        return stream(lambda emit: self._build(parameters, chunks, emit))

    async def _build(self, parameters: BuildParameters, chunks: AsyncIterator[bytes], emit: Callable[[dict[str, object]], None]) -> None:
        rooms = self.rooms
        plain = parameters.progress == "plain" and not parameters.quiet
        renderer: ClassicRecords | PlainRecords = PlainRecords() if plain else ClassicRecords(quiet=parameters.quiet)
        told = False

        def tell(event: Happening) -> None:
            nonlocal told
            for record in renderer.records(event):
                told = True
                emit(record)

        task = asyncio.current_task()
        if parameters.build_id and task is not None:
            self.builds[parameters.build_id] = task
        await self.gate.wait_for_removals()
        self.building += 1
        try:
            with rooms.garbage.hold():
                context = await self._receive(chunks)
                try:
                    result = await build(_request(parameters, context), self.build_services, tell)
                finally:
                    rooms.tasks.create_task(rooms.workers.run(context.close))  # a large one takes a while to go
                    if context.left:
                        self._remove_later(context.left)
            rooms.events.publish("image", "build", result.image_id, {})
        except EngineError as error:
            records = list(renderer.failure(error))
            if not told and len(records) == 1:
                raise
            for record in records:
                emit(record)
        finally:
            self.building -= 1
            if self.removals_put_off and not self.building:
                self.removals_put_off = False
                rooms.tasks.create_task(self._collect())
            self.builds.pop(parameters.build_id, None)

    def collect_later(self) -> None:
        """What a removal left, because somebody was at work with it, can go now."""
        if self.building:
            self.removals_put_off = True
        else:
            self.rooms.tasks.create_task(self._collect())

    async def _collect(self) -> None:
        async with self.gate.removal():
            if not self.building:
                await self.rooms.workers.run(self.rooms.garbage.collect)

    async def _receive(self, chunks: AsyncIterator[bytes]) -> PackedContext:
        """Raises InvalidRequest where the archive's own entries stand in each other's way."""
        receiving: asyncio.Future[PackedContext] | None = None

        def begin(file: Source) -> Awaitable[PackedContext]:
            nonlocal receiving
            receiving = asyncio.ensure_future(self.rooms.attendants.run(receive_context, file, _staging(self.rooms), self.rooms.start))
            return asyncio.shield(receiving)

        try:
            return await through_file(chunks, begin)
        except BaseException as error:
            if receiving is not None:
                receiving.add_done_callback(self._close_unwanted)  # the client left, and the thread had all that it needs, or soon has
            if not isinstance(error, OSError) or error.errno not in (errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            text = os.strerror(error.errno).lower()
            raise InvalidRequest(f"Error processing tar file: {error.filename}: {text}") from error

    def _close_unwanted(self, receiving: asyncio.Future[PackedContext]) -> None:
        if not receiving.cancelled() and receiving.exception() is None:
            self.rooms.tasks.create_task(self.rooms.workers.run(receiving.result().close))

    def _remove_later(self, directory: str) -> None:
        self.rooms.tasks.create_task(self._remove_when_quiet(directory))

    async def _remove_when_quiet(self, directory: str) -> None:
        """Nobody waits for the context's files to go; nor should a build that follows at once, which needs the same disk."""
        for _ in range(QUIET_TRIES):
            await asyncio.sleep(QUIET_S)
            if not self.building:
                break
        await self.rooms.attendants.run(_remove_directory, directory)

    async def cancel_build(self, build_id: str) -> None:
        task = self.builds.pop(build_id, None)
        if task is not None:
            task.cancel()

    async def prune_build_cache(self, request: CachePrune, filters: Filters) -> BuildPruned:
        rooms = self.rooms
        wanted = cache_choice(request, filters, rooms.settings.data_root)
        if wanted is None:
            return BuildPruned()
        async with self.gate.removal():
            pruned, freed = await self._prune_build_cache(wanted)
        rooms.events.publish("builder", "prune", "", {"reclaimed": str(freed)})
        return BuildPruned(caches_deleted=pruned.ids or None, space_reclaimed=freed)

    async def _prune_build_cache(self, wanted: cache.Choice) -> tuple[cache.Pruned, int]:
        """What is gone, and the bytes that are free again."""
        rooms = self.rooms
        images: set[str] = {layer for image in rooms.images.list(every=True) for layer in image.chain_ids}
        if holds_garbage(rooms.records):
            images |= {info.name for info in rooms.snapshotter.items()}
        if not self.building:
            wanted = replace(wanted, mounts=await rooms.workers.run(cache_mounts.sizes, rooms.settings.data_root))
        wanted = replace(wanted, building=self.keeps_layers)
        pruned = await rooms.workers.run(cache.prune, rooms.records, rooms.snapshotter, images, wanted)
        await rooms.workers.run(cache_mounts.discard, rooms.settings.data_root, pruned.mounts)
        freed = pruned.size_bytes
        if not self.building:
            freed += (await rooms.workers.run(rooms.garbage.collect)).reclaimed_bytes
        await rooms.workers.run(rooms.furniture.forget_gone, rooms.snapshotter)
        return pruned, freed

    def make_build_services(self) -> BuildServices:
        """Made once, when the engine is."""
        rooms = self.rooms
        return BuildServices(
            settings=rooms.settings,
            snapshotter=rooms.snapshotter,
            records=rooms.records,
            supervisor=rooms.supervisor,
            resolve=rooms.images.resolve,
            register=rooms.images.register,
            pull=rooms.images.registries.pull,
            sandbox=self._sandbox,
            blocking=rooms.attendants.run,
            start=rooms.start,
            dress=rooms.furniture.dress,
            reason=reason,
        )

    async def _sandbox(self, spec: RunSpec) -> RunSandbox:
        """The OCI config and network of one RUN step."""
        rooms = self.rooms
        mode = {"": "bridge", "default": "bridge"}.get(spec.network, spec.network)
        record = _step_record(spec, mode, rooms.settings)
        folder = tempfile.mkdtemp(prefix="step-", dir=_staging(rooms))

        async def cleanup() -> None:
            await rooms.workers.run(rooms.networks.release, spec.id)
            await rooms.workers.run(cgroup.end, rooms.cgroups, f"/{rooms.settings.tag}/{spec.id}")  # its monitor may have been killed
            await rooms.workers.run(shutil.rmtree, folder, ignore_errors=True)

        try:
            sandbox = await self._attach(spec, mode)
            gateway = rooms.networks.gateway()
            extra = [files.parse_extra_host(value, gateway) for value in spec.extra_hosts]
            write_fresh(f"{folder}/hosts", files.hosts(addresses=sandbox.hosts_addresses, hostname=spec.hostname, extra=extra))
            write_fresh(f"{folder}/resolv.conf", rooms.networks.resolv_conf(sandbox))
            config = oci.oci_config(
                record,
                oci.Surroundings(
                    cgroups_path=f"/{rooms.settings.tag}/{spec.id}",
                    files={f"/etc/{name}": f"{folder}/{name}" for name in ("hosts", "resolv.conf")},
                    available_capabilities=rooms.capabilities,
                    seccomp=rooms.settings.default_seccomp,
                ),
            )
        except BaseException:
            await cleanup()
            raise
        config["mounts"] += list(spec.mounts)
        config["process"]["env"] = [item for item in config["process"]["env"] if not item.startswith("HOSTNAME=")]  # as BuildKit
        return RunSandbox(config=config, netns_fd=sandbox.netns_fd, cleanup=cleanup)

    async def _attach(self, spec: RunSpec, mode: str) -> Sandbox:
        rooms = self.rooms
        with ExitStack() as held:
            donor = running_other(rooms.containers, mode) if mode.startswith("container:") else None
            request = SandboxRequest(
                container_id=spec.id,
                name=spec.hostname,
                mode=mode,
                networks={mode: EndpointSettings()} if mode == "bridge" else {},
                join_fd=open_namespace(donor, "net", held) if donor else None,
            )
            try:
                return await rooms.workers.run(rooms.networks.attach, request)
            except EngineError as error:
                raise networking(error) from error


def _step_record(spec: RunSpec, mode: str, settings: Settings) -> ContainerRecord:
    """A RUN step as if it were a container, so that both get the same sandbox."""
    limits = spec.limits
    host = HostConfig(
        network_mode=mode,
        memory=limits.memory,
        memory_swap=limits.memory_swap,
        cpu_shares=limits.cpu_shares,
        cpu_period=limits.cpu_period,
        cpu_quota=limits.cpu_quota,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        shm_size=limits.shm_size,
        ulimits=list(limits.ulimits) or None,
    )
    check_resources(host, cpus=len(os.sched_getaffinity(0)))
    return ContainerRecord(
        id=spec.id,
        name=spec.hostname,
        created_ns=0,
        image_id="",
        config=Config(hostname=spec.hostname, env=list(spec.env), working_dir=spec.cwd, user=spec.user),
        host_config=complete_host_config(
            host, default_log_options={}, security_profile=settings.security_profile, no_new_privileges=settings.no_new_privileges
        ),
        path=spec.args[0],
        args=list(spec.args[1:]),
        state=State(),
        snapshot="",
    )


def _request(parameters: BuildParameters, context: PackedContext) -> BuildRequest:
    if parameters.cgroup_parent:
        raise NotSupported("--cgroup-parent is not supported")
    if parameters.cache_from:
        raise NotSupported("--cache-from is not supported: steps are cached from what was built here before")
    if parameters.security_opt:
        raise NotSupported("--security-opt is not supported in builds")
    if parameters.isolation not in ("", "default"):
        raise InvalidRequest(f'invalid isolation ({parameters.isolation}): linux only supports "default"')
    return BuildRequest(
        context=context,
        dockerfile=parameters.dockerfile,
        tags=tuple(parameters.tags),
        target=parameters.target,
        build_args=parameters.build_args,
        labels=parameters.labels,
        platform=parameters.platform,
        no_cache=parameters.no_cache,
        pull=parameters.pull,
        quiet=parameters.quiet,
        squash=parameters.squash,
        network_mode=parameters.network_mode,
        extra_hosts=tuple(parameters.extra_hosts),
        limits=Limits(
            memory=parameters.memory,
            memory_swap=parameters.memory_swap,
            cpu_shares=parameters.cpu_shares,
            cpu_period=parameters.cpu_period,
            cpu_quota=parameters.cpu_quota,
            cpuset_cpus=parameters.cpuset_cpus,
            cpuset_mems=parameters.cpuset_mems,
            shm_size=parameters.shm_size,
            ulimits=tuple(parameters.ulimits),
        ),
    )


def receive_context(file: Source, directory: str, start: Start) -> PackedContext:
    """The tar a client sent, in any compression.  Raises InvalidRequest for what is no archive."""
    try:
        with PlainReader(file, start) as plain:
            return PackedContext(plain, directory, start)
    except (InvalidArchive, BadStream) as error:
        raise InvalidRequest(f"Error processing tar file: {error}") from error


def _remove_directory(directory: str) -> None:
    parent_fd = os.open(os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove(parent_fd, os.path.basename(directory))
    except OSError as error:
        log.warning("%s stays until the next start: %s", directory, error)
    finally:
        os.close(parent_fd)


def _staging(rooms: Rooms) -> str:
    path = f"{rooms.settings.data_root}/staging"
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path
