"""The services of one daemon, built once by ``engine.py`` and handed to every operation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from wherry.containers.service import Containers
from wherry.engine.changes import Changes
from wherry.engine.events import EventBus
from wherry.engine.furniture import Furniture
from wherry.engine.workers import Workers
from wherry.images.service import Images
from wherry.kernel.cgroup import Hierarchies
from wherry.networks.service import Networks
from wherry.runtime.supervisor import Supervisor
from wherry.spec.settings import Settings
from wherry.store.content import Content
from wherry.store.garbage import Garbage
from wherry.store.parsing import Start
from wherry.store.records import Records
from wherry.store.snapshot import Snapshotter
from wherry.volumes.service import Volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """``start``: where archives are read. ``workers``: for what is soon done; ``attendants``: for what waits for a client, or is as large
    as a container or a client makes it. ``capabilities``: what the daemon may hand on; ``boot_id``: of this boot of the machine."""

    settings: Settings
    records: Records
    content: Content
    snapshotter: Snapshotter
    start: Start
    supervisor: Supervisor
    furniture: Furniture
    images: Images
    containers: Containers
    networks: Networks
    volumes: Volumes
    events: EventBus
    changes: Changes
    garbage: Garbage
    workers: Workers
    attendants: Workers
    tasks: asyncio.TaskGroup
    cgroups: Hierarchies
    capabilities: tuple[str, ...]
    boot_id: str
