"""`create`: an image, a request and a name become a container's record, writable layer and volumes, or nothing at all."""

from __future__ import annotations

import os
import platform as machine
import time
from contextlib import AsyncExitStack

from wherry.containers import create, mounts, names, present
from wherry.containers.container import Container
from wherry.containers.record import ContainerRecord, MountRecord, State
from wherry.engine.rooms import Rooms
from wherry.errors import InvalidRequest, NotFound
from wherry.ids import new_id, short
from wherry.images import platforms
from wherry.images.catalog import Image
from wherry.spec.docker.container import ContainerCreate, HostConfig


class Creating:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._cpus = len(os.sched_getaffinity(0))

    async def create(self, body: ContainerCreate, *, name: str, platform: str) -> Container:
        """Raises NotFound for the image, Conflict for the name, InvalidRequest in Docker's words for the rest."""
        rooms = self._rooms
        wanted = create.checked_name(name) if name else ""
        ident = new_id()
        image = self._image(body.image, platform)
        config = create.merge_config(
            body, create.from_image(image.config.config) if image and image.config.config else None, hostname=self._hostname(body, ident)
        )
        host = create.complete_host_config(
            body.host_config,
            default_log_options=rooms.settings.default_log_options,
            security_profile=rooms.settings.security_profile,
            no_new_privileges=rooms.settings.no_new_privileges,
            default_runtime=rooms.settings.default_runtime,
            v2=rooms.cgroups.v2 is not None,
        )
        create.check(config, host, cpus=self._cpus, runtimes=rooms.settings.runtimes)
        create.check_joined_network(body)
        if host.network_mode.startswith("container:") and body.hostname:
            raise InvalidRequest("conflicting options: hostname and the network mode")
        if host.uts_mode == "host" and body.hostname:
            raise InvalidRequest("conflicting options: hostname and the UTS mode")
        if host.uts_mode == "host" and body.domainname:
            raise InvalidRequest('sysctl "kernel.domainname" is not in a separate kernel namespace')
        self._name_donors(host)
        endpoints = create.endpoints_asked(body, host)
        create.settle_mac_address(config, host, endpoints)
        rooms.networks.check(host.network_mode, endpoints)
        # On a network with names the links of its endpoint count, and may lead to who does not exist yet.
        links = [] if create.is_user_defined(host.network_mode) else [self._link(text) for text in host.links or ()]
        wired = mounts.collect(host, sorted(config.volumes or ()), self._inherited(host))
        for mount in wired:
            if mount.spec == "mounts" and mount.type == "bind" and not os.path.lexists(mount.source):
                raise InvalidRequest(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')
        path, arguments = create.command_of(config)
        snapshot = f"container-{ident}"
        with rooms.garbage.hold() as hold:
            hold(snapshot)  # a sweep that is under way has looked at the records already
            async with AsyncExitStack() as undo:
                for mount in wired:
                    await self._ensure_volume(mount, host, undo)
                chain = image.chain_ids[-1] if image and image.chain_ids else None
                if rooms.snapshotter.is_quick(chain):
                    rooms.snapshotter.prepare(snapshot, chain)
                else:
                    await rooms.workers.run(rooms.snapshotter.prepare, snapshot, chain)
                undo.callback(rooms.snapshotter.remove, snapshot)
                os.mkdir(rooms.containers.folder(ident), 0o710)
                undo.callback(rooms.containers.remove_folder, ident)
                record = ContainerRecord(
                    id=ident,
                    name=wanted or names.generate(rooms.containers.is_free),
                    created_ns=time.time_ns(),
                    image_id=str(image.id) if image else "",
                    config=config,
                    host_config=host,
                    path=path,
                    args=arguments,
                    state=State(),
                    snapshot=snapshot,
                    chain=str(chain) if chain else None,
                    mounts=wired,
                    networks=endpoints,
                    links=links,
                    architecture=(image.config.architecture if image else "") or machine.machine(),
                )
                container = rooms.containers.add(record)
                undo.pop_all()
        rooms.events.publish("container", "create", ident, present.attributes(record))
        return container

    def _image(self, reference: str, platform: str) -> Image:
        if not reference:
            raise InvalidRequest("no image specified")
        try:
            wanted = platforms.parse(platform) if platform else None
        except InvalidRequest as error:
            raise InvalidRequest(f"error parsing specified platform: {error}") from error
        return self._rooms.images.resolve(reference, wanted)

    def _hostname(self, body: ContainerCreate, ident: str) -> str:
        mode = body.host_config.network_mode if body.host_config else ""
        if mode == "host" or (body.host_config and body.host_config.uts_mode == "host"):
            return os.uname().nodename
        return short(ident)

    def _name_donors(self, host: HostConfig) -> None:
        """Those whose namespaces it joins must be there, and are noted by id: a name may come to mean another."""
        for field in ("pid_mode", "ipc_mode", "network_mode"):
            kind, _, name = getattr(host, field).partition(":")
            if kind != "container":
                continue
            try:
                setattr(host, field, f"container:{self._rooms.containers.get(name).id}")
            except NotFound as error:  # not 404: a client would take it for the image and pull
                if field != "network_mode":  # that one is looked for at the start
                    raise InvalidRequest(str(error)) from error

    def _link(self, text: str) -> tuple[str, str]:
        """`name:alias` or `name` as (id, alias)."""
        name, _, alias = text.partition(":")
        try:
            target = self._rooms.containers.get(name)
        except (NotFound, InvalidRequest) as error:
            raise InvalidRequest(f"could not get container for {name}: {error}") from error
        return target.id, alias.rpartition("/")[2] or name

    def _inherited(self, host: HostConfig) -> list[MountRecord]:
        """The mounts of `--volumes-from`."""
        found = []
        for text in host.volumes_from or ():
            if not text:
                raise InvalidRequest("volumes-from specification cannot be an empty string")
            name, _, mode = text.partition(":")
            mounts.check_inherited_mode(mode)
            try:
                donor = self._rooms.containers.get(name)
            except NotFound as error:  # not 404: a client would take it for the image and pull
                raise InvalidRequest(str(error)) from error
            for mount in donor.record.mounts:
                if mount.type != "tmpfs":
                    copied = MountRecord(**{field: getattr(mount, field) for field in mount.__struct_fields__})
                    copied.read_only = copied.read_only or "ro" in mode.split(",")
                    copied.anonymous = False
                    found.append(copied)
        return found

    async def _ensure_volume(self, mount: MountRecord, host: HostConfig, undo: AsyncExitStack) -> None:
        """Create the volume a mount names, or an anonymous one, and note where it is; find the image a mount names.

        In a thread: each waits for the disk, and an image may ask for thousands.
        """
        if mount.type == "image":
            try:
                mount.image_id = self._rooms.images.resolve(mount.name).id
            except NotFound as error:  # not 404: a client would take it for the container's image and pull that
                raise InvalidRequest(f'invalid mount config for type "image": {error}') from error
        if mount.type != "volume":
            return
        if host.volume_driver not in ("", "local"):
            raise InvalidRequest(f'error looking up volume plugin {host.volume_driver}: plugin "{host.volume_driver}" not found')
        volumes, events = self._rooms.volumes, self._rooms.events
        existed = bool(mount.name) and volumes.exists(mount.name)
        asked = next((one.volume_options for one in host.mounts or () if one.target == mount.destination and one.volume_options), None)
        driver = asked.driver_config if asked else None
        try:
            volume = await self._rooms.workers.run(
                volumes.create,
                mount.name,
                driver=(driver and driver.name) or "local",
                labels=asked.labels if asked else None,
                options=driver.options if driver else None,
            )
        except NotFound as error:  # not 404: a client would take it for the image and pull
            raise InvalidRequest(str(error)) from error
        mount.name, mount.source = volume.name, volumes.path(volume.name)
        if not existed:
            undo.push_async_callback(self._rooms.workers.run, volumes.remove, volume.name, force=True, in_use=lambda _: [])
            events.publish("volume", "create", volume.name, {"driver": "local"})
