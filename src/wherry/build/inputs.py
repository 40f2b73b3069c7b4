"""The sources of COPY, ADD and RUN --mount in one build: the context, earlier stages, other images; opened once, hashed once.

Layers never change, so what was chosen from a stage or an image is remembered between builds by the layers' name: a cached build reads
none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from wherry.build.cache import Cache, Entry
from wherry.build.context import Chosen, Source
from wherry.build.services import BuildServices
from wherry.build.state import State
from wherry.kernel import mount
from wherry.spec.mounts import Rootfs


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where files come from: the context, or the layers named by ``chain`` (None there: a stage without files)."""

    is_context: bool
    chain: str | None = None


CONTEXT = Origin(is_context=True)


class Inputs:
    """Opens sources when they are first needed; ``close`` ends them."""

    def __init__(self, services: BuildServices, cache: Cache, context: Source, directory: str) -> None:
        self.services = services
        self.cache = cache
        self.context = context
        self.directory = directory
        self._views: dict[str | None, Source] = {}
        self._chosen: dict[tuple[Origin, str, tuple[str, ...]], list[Chosen]] = {}
        self._lock = asyncio.Lock()
        self._stack = contextlib.ExitStack()

    def close(self) -> None:
        self._stack.close()

    @staticmethod
    def of_state(state: State) -> Origin:
        return Origin(is_context=False, chain=state.chain)

    async def source(self, origin: Origin) -> Source:
        """The directory to read from, with its descriptor."""
        if origin.is_context:
            return self.context
        async with self._lock:
            source = self._views.get(origin.chain)
            if source is None:
                fd = await self.services.blocking(self._open, origin.chain)
                source = self._views[origin.chain] = Source(fd, owners=True)
                self._stack.callback(source.close)
            return source

    async def choose(self, origin: Origin, pattern: str, excludes: Sequence[str]) -> list[Chosen]:
        """What a pattern names there.  Raises NothingThere, OSError, BadPattern."""
        asked = (origin, pattern, tuple(excludes))
        chosen = self._chosen.get(asked)
        if chosen is None:
            source = await self.source(origin)
            async with self._lock:
                chosen = await self.services.blocking(source.choose, pattern, excludes)
            self._chosen[asked] = chosen
        return chosen

    async def digest(self, origin: Origin, pattern: str, excludes: Sequence[str]) -> str:
        """One digest for all that a pattern names, their names included."""
        if origin.is_context:
            return _combined(await self.choose(origin, pattern, excludes))
        told = "\0".join(("input", origin.chain or "", pattern, *excludes))
        key = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()
        entry = self.cache.get(key)
        if entry is None:
            digest = _combined(await self.choose(origin, pattern, excludes))
            entry = Entry(kind="input", digest=digest, description=f"files of {pattern}")
            self.cache.put(key, entry)
        return entry.digest

    def layers(self, origin: Origin) -> tuple[str, ...]:
        """The directories of a stage's layers, top first."""
        return () if origin.chain is None else _directories(self.services.snapshotter.view(origin.chain))

    def _open(self, chain: str | None) -> int:
        return open_view(self.services, chain, self.directory)


def open_view(services: BuildServices, chain: str | None, directory: str) -> int:
    """What the layers named by ``chain`` show together, to be read.  ``directory``: the build's own, for an empty one."""
    layers = () if chain is None else _directories(services.snapshotter.view(chain))
    if len(layers) > 1:
        return mount.overlay(list(layers), None, None, attributes=mount.MOUNT_ATTR_RDONLY)
    if layers:
        path = layers[0]
    else:
        path = os.path.join(directory, "scratch")
        os.makedirs(path, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _directories(view: Rootfs) -> tuple[str, ...]:
    return view.lower or ((view.upper,) if view.upper else ())


def _combined(chosen: Sequence[Chosen]) -> str:
    whole = hashlib.sha256()
    for one in chosen:
        name = os.fsencode(one.name)
        whole.update(len(name).to_bytes(4, "big") + name + one.digest)
    return whole.hexdigest()
