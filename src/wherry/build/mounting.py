"""The mounts of a RUN: bind, cache, tmpfs, secret, as the runtime takes them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from wherry.build import cache_mounts, mounts
from wherry.build.cache import Entry
from wherry.build.context import Source
from wherry.build.failures import BuildFailed
from wherry.build.inputs import Origin
from wherry.build.mounts import RunMount
from wherry.build.steps import staging_file
from wherry.build.work import Work, not_found, now
from wherry.tree.remove import discard


class Mounting:
    """``origin``: what a ``from=`` names."""

    def __init__(self, work: Work, origin: Callable[[str], Awaitable[Origin]]) -> None:
        self.work = work
        self._origin = origin

    @contextlib.asynccontextmanager
    async def mounted(self, asked: Sequence[RunMount], script: tuple[str, str] | None) -> AsyncIterator[Sequence[dict[str, Any]]]:
        async with contextlib.AsyncExitStack() as stack:
            made: list[dict[str, Any]] = []
            for mount in asked:
                one = await self._mount(mount, stack)
                if one is not None:
                    made.append(one)
            if script is not None:
                path = staging_file(self._scratch(stack), "script", script[1].encode(), 0o755)
                made.append(mounts.bind(path, f"/dev/pipes/{script[0]}", writable=False))
            yield made

    def _scratch(self, stack: contextlib.AsyncExitStack) -> str:
        path = os.path.join(self.work.steps.directory, f"mount-{os.urandom(6).hex()}")
        os.mkdir(path, 0o755)
        stack.callback(discard, path)
        return path

    async def _mount(self, mount: RunMount, stack: contextlib.AsyncExitStack) -> dict[str, Any] | None:
        match mount.kind:
            case "tmpfs":
                return mounts.tmpfs(mount)
            case "secret":
                return self._secret(mount, stack)
            case "cache":
                return await self._cache_mount(mount, stack)
            case "bind":
                return await self._bind(mount, stack)
        if mount.required:
            raise BuildFailed(f"unset ssh forward key {mount.id}")
        return None

    async def _bind(self, mount: RunMount, stack: contextlib.AsyncExitStack) -> dict[str, Any]:
        origin = await self._origin(mount.origin)
        source = await self.work.inputs.source(origin)
        scratch = self._scratch(stack) if mount.writable else None
        try:
            if origin.is_context:
                path = mounts.context_path(source, await self.work.services.blocking(source.unpacked), mount)
                return (
                    mounts.bind(path, mount.target, writable=False)
                    if scratch is None
                    else mounts.bind_layers([path], "", mount.target, scratch)
                )
            resolved = source.resolved(mount.source)
            if resolved is None:
                raise FileNotFoundError(mount.source)
            layers = self.work.inputs.layers(origin) or (os.path.join(self.work.steps.directory, "scratch"),)
            return mounts.bind_layers(layers, resolved, mount.target, scratch)
        except FileNotFoundError:
            raise not_found("RUN", mount.source, origin) from None

    def _secret(self, mount: RunMount, stack: contextlib.AsyncExitStack) -> dict[str, Any] | None:
        content = self.work.request.secrets.get(mount.id)
        if content is None:
            if mount.required:
                raise BuildFailed(f"secret {mount.id}: not found")
            return None
        if not mount.target:
            return None
        directory = os.path.join(self.work.services.settings.run_root, "secrets", os.urandom(8).hex())
        os.makedirs(directory, mode=0o700)
        stack.callback(discard, directory)
        path = staging_file(directory, "secret", content, mount.mode if mount.mode is not None else 0o400)
        os.chown(path, mount.uid, mount.gid)
        return mounts.bind(path, mount.target, writable=False)

    async def _cache_mount(self, mount: RunMount, stack: contextlib.AsyncExitStack) -> dict[str, Any]:
        work = self.work
        root = cache_mounts.folder(work.services.settings.data_root)
        os.makedirs(root, mode=0o700, exist_ok=True)
        namespace = work.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS") or ""
        directory = mounts.cache_directory(root, namespace, mount.id)
        locks = work.services.mount_locks
        if mount.sharing == "private":
            while (lock := locks.setdefault(directory, asyncio.Lock())).locked():
                directory += "p"
            await stack.enter_async_context(lock)
        elif mount.sharing == "locked":
            await stack.enter_async_context(locks.setdefault(directory, asyncio.Lock()))
        if work.request.no_cache and directory not in work.emptied:
            await work.services.blocking(discard, directory)
        work.emptied.add(directory)
        source = await self._initial(mount)
        await work.services.blocking(mounts.make_cache, directory, mount, source)
        work.cache.put(cache_mounts.key_of(directory), Entry(kind="mount", created=now(), description=f"cached mount {mount.target}"))
        return mounts.bind(directory, mount.target, writable=mount.writable)

    async def _initial(self, mount: RunMount) -> Source | None:
        return await self.work.inputs.source(await self._origin(mount.origin)) if mount.origin else None
