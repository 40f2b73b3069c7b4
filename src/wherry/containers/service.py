"""All containers: found by id, unique prefix or name; their records saved before anything acts on them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from wherry.containers import log_options
from wherry.containers.container import Container, Exec
from wherry.containers.create import checked_name
from wherry.containers.lifecycle import Event, Status, advance
from wherry.containers.record import ContainerRecord
from wherry.errors import Conflict, InvalidRequest, NotFound
from wherry.ids import matching_prefix
from wherry.store import unreadable
from wherry.store.records import NameTaken, Records
from wherry.tree.remove import remove_empty

KIND = "container"
_FILES = ("exit.json", "hosts", "hostname", "resolv.conf")  # all that a folder holds, beside its log, nearly always
KEPT_EXECS = 1000  # of one container: what asks every second for a month would fill the memory
_decode = msgspec.json.Decoder(ContainerRecord).decode
_encode = msgspec.json.encode


class Containers:
    """``root``: the folder that holds one folder for each container.  ``tasks`` runs what containers do."""

    def __init__(self, records: Records, root: str, tasks: asyncio.TaskGroup) -> None:
        self._records = records
        self._root = root
        self._tasks = tasks
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self.execs: dict[str, Exec] = {}
        os.makedirs(root, mode=0o700, exist_ok=True)

    def load(self) -> list[Container]:
        """Read every record; called once, at start."""
        for _, body in self._records.items(KIND):
            record = _decode(body)
            if record.state.status is Status.REMOVING:
                record.state.status = advance(Status.REMOVING, Event.BREAK)  # nobody is at it any more: it can be removed again
            self._enter(Container(record, self._tasks))
        return self.all()

    def _enter(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.name] = container

    def all(self) -> list[Container]:
        """Newest first."""
        return sorted(self._by_id.values(), key=lambda container: container.record.created_ns, reverse=True)

    def get(self, ref: str) -> Container:
        """By name, id or unique prefix of one.  Raises NotFound: `No such container: X`."""
        if not ref:
            raise InvalidRequest('invalid name or ID supplied: ""')
        name = ref.removeprefix("/")
        if (found := self._by_name.get(name) or self._by_id.get(ref)) is not None:
            return found
        matches = matching_prefix(ref, self._by_id) if all(c in "0123456789abcdef" for c in ref) else []
        if len(matches) > 1:
            raise InvalidRequest(f"multiple IDs found with provided prefix: {ref}")
        if not matches:
            raise NotFound(f"No such container: {ref}")
        return self._by_id[matches[0]]

    def folder(self, ident: str) -> str:
        return os.path.join(self._root, ident)

    def log_path(self, record: ContainerRecord) -> str:
        """Where the log is; empty when the driver keeps none."""
        return log_options.path(record, self.folder(record.id))

    def add(self, record: ContainerRecord) -> Container:
        """Save a new record and its name together.  Raises Conflict when the name is taken."""
        body = _encode(record)
        with self._records.transaction(durable=_lasts(record)):
            self._claim(record.name, record.id)
            self._records.put(KIND, record.id, body)
        container = Container(record, self._tasks)
        self._enter(container)
        return container

    def _claim(self, name: str, ident: str) -> None:
        try:
            self._records.claim(KIND, name, ident)
        except NameTaken as taken:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{taken.holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            ) from taken

    def is_free(self, name: str) -> bool:
        return self._records.resolve(KIND, name) is None

    def save(self, container: Container, *, durable: bool = True) -> None:
        """``durable``: also against a power cut, unless a power cut takes the whole container."""
        with self._records.transaction(durable=durable and _lasts(container.record)):
            self._records.put(KIND, container.id, _encode(container.record))

    def rename(self, container: Container, name: str) -> str:
        """Give it a new name; return the old one."""
        new, old = checked_name("/" + name.removeprefix("/")), container.name
        if new == old:
            raise InvalidRequest("Renaming a container with the same name as its current name")
        with self._records.transaction():
            self._claim(new, container.id)
            self._records.release(KIND, old)
            container.record.name = new
            self.save(container)
        del self._by_name[old]
        self._by_name[new] = container
        return old

    def forget(self, container: Container, along: Callable[[], None]) -> None:
        """Remove the record and the name, and with them what ``along`` does to the records: from here on it does not exist.

        Its files are the caller's.
        """
        with self._records.transaction(durable=_lasts(container.record)):
            self._records.delete(KIND, container.id)
            self._records.release(KIND, container.name)
            along()
        self._by_id.pop(container.id, None)
        self._by_name.pop(container.name, None)
        for ident in container.execs:
            self.execs.pop(ident, None)

    def remove_folder(self, ident: str) -> None:
        folder = self.folder(ident)
        if not remove_empty(folder, (), (f"{ident}-json.log", *_FILES)):
            shutil.rmtree(folder, ignore_errors=True)

    def sweep_folders(self) -> None:
        """Remove folders that no record names, what a crash left; make again, empty, those that a power cut took."""
        kept = self._by_id.keys() | unreadable.idents(self._records, KIND)
        for name in () if unreadable.is_doubtful(self._records) else os.listdir(self._root):
            if name not in kept:
                shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)
        for ident in self._by_id:
            os.makedirs(self.folder(ident), mode=0o710, exist_ok=True)

    def add_exec(self, item: Exec) -> None:
        """Hold an exec until its container goes, or there are `KEPT_EXECS` newer ones and it is over, or never began."""
        item.container.execs[item.id] = self.execs[item.id] = item
        if len(item.container.execs) > KEPT_EXECS:
            idle = [one.id for one in item.container.execs.values() if not one.running and one is not item]
            for ident in idle[: len(item.container.execs) - KEPT_EXECS]:
                del item.container.execs[ident], self.execs[ident]

    def exec_named(self, ident: str) -> Exec:
        if (found := self.execs.get(ident)) is not None:
            return found
        raise NotFound(f"No such exec instance: {ident}")

    def using_volume(self, name: str) -> list[str]:
        """Ids of the containers that mount volume ``name``, running or not."""
        return [container.id for container in self._by_id.values() if any(mount.name == name for mount in container.record.mounts)]

    def volume_users(self) -> Counter[str]:
        """How many containers mount each volume."""
        return Counter(
            name for container in self._by_id.values() for name in {mount.name for mount in container.record.mounts if mount.name}
        )

    def image_users(self) -> Counter[str]:
        """How many containers stand on each image, or mount it."""
        return Counter(ident for container in self._by_id.values() for ident in _images(container.record))

    def using_image(self, image_id: str) -> list[Container]:
        return [container for container in self._by_id.values() if image_id in _images(container.record)]


def _images(record: ContainerRecord) -> set[str]:
    return {record.image_id, *(mount.image_id for mount in record.mounts if mount.image_id)}


def _lasts(record: ContainerRecord) -> bool:
    """Whether it outlives a power cut: one that is removed when it ends does not, whatever its record says then."""
    return not record.host_config.auto_remove


def running(containers: Iterable[Container]) -> list[Container]:
    return [container for container in containers if container.is_running]
