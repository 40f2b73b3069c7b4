"""The engine: every service built once from the settings, and every operation a client can ask for (``api/ports.Operations``)."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from wherry.build import cache
from wherry.containers import security
from wherry.containers.service import Containers
from wherry.engine import recover, selftest, unreadable
from wherry.engine.changes import Changes
from wherry.engine.confined import Confined
from wherry.engine.container_files import ContainerFiles
from wherry.engine.creating import Creating
from wherry.engine.events import EventBus
from wherry.engine.execs import Execs
from wherry.engine.furniture import Furniture
from wherry.engine.gate import Gate
from wherry.engine.inside import InsideOperations
from wherry.engine.networks import NetworkOperations
from wherry.engine.preview import PreviewOperations
from wherry.engine.rooms import Rooms
from wherry.engine.running import Running
from wherry.engine.soundness import SoundnessOperations
from wherry.engine.system import SystemOperations
from wherry.engine.volumes import VolumeOperations
from wherry.engine.workers import Workers
from wherry.errors import EngineError, Unavailable
from wherry.images.partials import Partials
from wherry.images.service import Images
from wherry.kernel import cgroup
from wherry.networks.service import Networks
from wherry.registry.client import Client
from wherry.registry.transport import Patience
from wherry.registry.trust import Trust
from wherry.runtime.supervisor import Supervisor
from wherry.spec.mirrors import parse_mirror, parse_token_server
from wherry.spec.settings import Settings
from wherry.store.choice import choose
from wherry.store.content import Content
from wherry.store.garbage import Garbage, Roots
from wherry.store.records import Records
from wherry.store.vfs import Vfs
from wherry.volumes.service import Volumes

log = logging.getLogger(__name__)
_ATTENDANTS = 64  # threads at most that wait for clients and registries or work at what these make large, beside those that do the rest


class Engine(InsideOperations, PreviewOperations, SoundnessOperations, NetworkOperations, VolumeOperations, SystemOperations):
    """Made by ``running_engine``."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.running = Running(rooms)
        self.creating = Creating(rooms)
        self.execs = Execs(rooms)
        self.files = ContainerFiles(rooms)
        self.gate = Gate()
        self.builds: dict[str, asyncio.Task[object]] = {}
        self.build_services = self.make_build_services()
        self.daemon_id = _daemon_id(rooms.records)
        self.sandbox_warnings: list[str] = []

    async def remove_everything(self) -> None:
        """Every container, running or not; for a daemon that leaves nothing behind."""
        for container in self.rooms.containers.all():
            try:
                await self.running.removal.remove(container, volumes=True, force=True, called=container.name)
            except EngineError as error:
                log.warning("container %s: not removed: %s", container.name, error)


@asynccontextmanager
async def running_engine(settings: Settings, supervisor: Supervisor, tasks: asyncio.TaskGroup) -> AsyncIterator[Engine]:
    """Build the services, recover, and give them up again at the end; containers run on.

    ``supervisor`` is started already: the zygote is executed before anything else.
    """
    async with AsyncExitStack() as stack:
        os.makedirs(settings.data_root, mode=0o710, exist_ok=True)
        os.makedirs(f"{settings.run_root}/monitors", mode=0o700, exist_ok=True)
        records = Records(f"{settings.data_root}/state.db", unreadable.CHECKS)
        stack.callback(records.close)
        if records.is_new:
            set_aside(settings.data_root)
        workers, attendants = Workers(), Workers(_ATTENDANTS)
        stack.callback(workers.close)
        stack.callback(attendants.close)
        events, changes = EventBus(), Changes()
        content = Content(settings.data_root)
        start = Confined(supervisor)
        snapshotter = choose(settings, records, start)
        stack.callback(snapshotter.close)
        capabilities = _own_capabilities()
        overlay = snapshotter.name != Vfs.name
        groups = cgroup.find()
        if lack := cgroup.lacking(groups):
            raise Unavailable(lack)
        if cgroup.vacate_root(groups):
            log.info("the root of this cgroup namespace had processes: they are in its group init now, or no container could have limits")
        trial = tasks.create_task(selftest.weaknesses(settings, supervisor, capabilities, overlay=overlay), name=selftest.CGROUP)
        await asyncio.sleep(0)  # it begins: its container is made while the services here are built
        registry = _registry_client(settings)
        stack.push_async_callback(registry.close)
        loop = asyncio.get_running_loop()

        def publish_image(action: str, ident: str, facts: dict[str, str]) -> None:
            loop.call_soon_threadsafe(events.publish, "image", action, ident, facts)

        def collect_later() -> None:
            loop.call_soon_threadsafe(lambda: engine.collect_later())

        garbage = Garbage(content, snapshotter, lambda: garbage_roots(rooms), idle=collect_later)
        images = Images(
            records=records,
            content=content,
            snapshotter=snapshotter,
            registry=registry,
            run=workers.run,
            attend=attendants.run,
            downloads=settings.concurrent_downloads,
            uploads=settings.concurrent_uploads,
            spawn=tasks.create_task,
            publish=publish_image,
            hold=garbage.hold,
            put_off=garbage.put_off,
            partials=Partials(f"{settings.data_root}/partial", content),
            keeps=lambda: unreadable.layers_kept(records, snapshotter, building=engine.keeps_layers()),
            start=start,
        )
        networks = Networks(settings, records)
        rooms = Rooms(
            settings=settings,
            records=records,
            content=content,
            snapshotter=snapshotter,
            start=start,
            supervisor=supervisor,
            furniture=Furniture(f"{settings.data_root}/init", supervisor),
            images=images,
            containers=Containers(records, f"{settings.data_root}/containers", tasks),
            networks=networks,
            volumes=Volumes(records, f"{settings.data_root}/volumes"),
            events=events,
            changes=changes,
            garbage=garbage,
            workers=workers,
            attendants=attendants,
            tasks=tasks,
            cgroups=groups,
            capabilities=capabilities,
            boot_id=_boot_id(),
        )
        rooms.containers.load()
        alive = recover.survivors(rooms)
        networks.start(alive)
        if settings.ephemeral:
            stack.callback(_remove_groups, settings, rooms.cgroups)
            stack.callback(networks.destroy)
            stack.push_async_callback(supervisor.close)  # what waits for the next start has a group too
        stack.callback(networks.close)
        engine = Engine(rooms)
        await workers.run(garbage.start)
        await workers.run(images.sweep_partials)
        await workers.run(rooms.furniture.sweep, snapshotter)
        await workers.run(engine.running.image_mounts.sweep)
        await workers.run(rooms.volumes.sweep)
        await workers.run(rooms.containers.sweep_folders)
        await recover.take_up(rooms, engine.running, alive)
        engine.sandbox_warnings = selftest.judge(await trial, settings)
        yield engine


def _registry_client(settings: Settings) -> Client:
    return Client(
        trust=Trust(
            insecure=settings.insecure_registries,
            certificates=settings.certificate_dirs,
            token_servers=[parse_token_server(text) for text in settings.token_servers],
        ),
        mirrors=[parse_mirror(text) for text in settings.registry_mirrors],
        proxies=settings.proxies,
        patience=Patience(connect_s=settings.registry_connect_s, idle_s=settings.registry_idle_s, retries=settings.download_attempts - 1),
    )


def set_aside(data_root: str) -> None:
    """The records are gone with their second copy, and what they told of is still here: it is kept, out of the way of sweeps.

    Volumes stay: their directories tell enough (`Volumes.sweep`).
    """
    lost = os.path.join(data_root, f"lost-{time.time_ns()}")
    for name in ("content", "snapshots", "containers"):
        path = os.path.join(data_root, name)
        if os.path.isdir(path) and any(files for _, _, files in os.walk(path)):
            os.makedirs(lost, mode=0o700, exist_ok=True)
            os.rename(path, os.path.join(lost, name))
            log.error("the records of %s are lost: it is kept as %s", path, os.path.join(lost, name))


def garbage_roots(rooms: Rooms) -> Roots:
    """Everything that a record leads to."""
    images = rooms.images.roots()
    keys = {container.record.snapshot for container in rooms.containers.all()}
    snapshots = frozenset(images.snapshots | keys | cache.layers(rooms.records))
    return Roots(content=images.content, snapshots=snapshots, complete=not unreadable.holds_garbage(rooms.records))


def _remove_groups(settings: Settings, groups: cgroup.Hierarchies) -> None:
    """The one above all containers' groups, for a daemon that leaves nothing behind."""
    cgroup.remove(groups, f"/{settings.tag}")
    cgroup.remove_elsewhere(f"/{settings.tag}")


def _own_capabilities() -> tuple[str, ...]:
    """What the daemon has in its bounding set, and so what it can give."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("CapBnd:"))
    mask = int(line.split()[1], 16)
    return tuple(name for number, name in enumerate(security.CAPABILITIES) if mask >> number & 1)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _daemon_id(records: Records) -> str:
    """Made once for a data root."""
    known = records.resolve("setting", "daemon-id")
    if known is None:
        known = secrets.token_hex(16)
        records.name("setting", "daemon-id", known)
    return known
