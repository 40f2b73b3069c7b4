"""One thin layer between an image and its containers with the mount points that every container needs.

So a container's own layer holds only what its program wrote: `diff`, `commit` and a build's layers show nothing of ours. Made once for each
stack of image layers, by a task inside it, and shared by all its containers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial

from wherry.runtime.supervisor import Supervisor
from wherry.spec.mounts import Rootfs
from wherry.store.layer import HashingSink, NullSink
from wherry.store.snapshot import Snapshotter
from wherry.store.soundness import Finding, quarantine
from wherry.tree.durable import sync_small_tree
from wherry.tree.pack import PackOptions, pack

_STAGING = ".new-"
_SUM = "sum"  # the digest of the layer packed
NAME_LENGTH = 24  # of the chain id: enough to be unique, and short: it stands in mount options


class Furniture:
    def __init__(self, root: str, supervisor: Supervisor) -> None:
        self._root = root
        self._supervisor = supervisor
        os.makedirs(root, mode=0o700, exist_ok=True)

    async def dress(self, rootfs: Rootfs, chain_id: str | None) -> Rootfs:
        """``rootfs`` with the layer of ``chain_id`` (None: an image without layers) on top of its lower ones.

        A root without lower layers (the vfs snapshotter) stays as it is.
        """
        if not rootfs.lower:
            return rootfs
        path = os.path.join(self._root, _name(chain_id), "d")
        if not os.path.isdir(path):
            await self._make(path, rootfs)
        return Rootfs(lower=(path, *rootfs.lower), upper=rootfs.upper, work=rootfs.work)

    async def _make(self, path: str, rootfs: Rootfs) -> None:
        staging = tempfile.mkdtemp(prefix=_STAGING, dir=self._root)
        try:
            upper, work = os.path.join(staging, "d"), os.path.join(staging, "w")
            os.mkdir(upper)
            os.mkdir(work)
            below = os.stat(rootfs.lower[0])
            os.chown(upper, below.st_uid, below.st_gid)
            os.chmod(upper, below.st_mode & 0o7777)
            await self._supervisor.task(Rootfs(lower=rootfs.lower, upper=upper, work=work), "furnish", {})
            shutil.rmtree(work)
            with open(os.path.join(staging, _SUM), "x") as file:
                file.write(_digest(upper))
            _make_durable(staging)
            with contextlib.suppress(FileExistsError, OSError):  # another made the same meanwhile
                os.rename(staging, os.path.dirname(path))
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def check(self) -> Iterator[Finding]:
        """Layers that are not what they were made as; one set aside is made again when it is needed."""
        for name in sorted(os.listdir(self._root)):
            path = os.path.join(self._root, name)
            if name.startswith(_STAGING) or not os.path.isdir(path):
                continue
            if not _is_whole(path) and os.path.isdir(path):
                mend = partial(quarantine, os.path.dirname(self._root), path, f"init-{name}")
                fact = "the layer of mount points is not what it was made as"
                yield Finding(subject=f"init/{name}", fact=fact, remedy="set it aside: it is made again", mend=mend)

    def sweep(self, snapshotter: Snapshotter) -> None:
        """At start: what a crash left, then what `forget_gone` removes."""
        for name in os.listdir(self._root):
            if name.startswith(_STAGING):
                shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)
        self.forget_gone(snapshotter)

    def forget_gone(self, snapshotter: Snapshotter) -> None:
        """Remove the layers of stacks that are gone; at any time: what a container uses is the parent of its own layer, and so not gone."""
        made = set(os.listdir(self._root))
        known = {_name(info.name) for info in snapshotter.items()} | {_name(None)}
        for name in made - known:
            if not name.startswith(_STAGING):
                shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)


def _is_whole(path: str) -> bool:
    try:
        found = _digest(os.path.join(path, "d"))
        with open(os.path.join(path, _SUM)) as file:
            return file.read() in (found, "")
    except FileNotFoundError as error:
        return bool(error.filename == os.path.join(path, _SUM))  # made before sums were kept


def _digest(directory: str) -> str:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with HashingSink(NullSink()) as sink:
            pack(fd, sink, PackOptions(overlay=True))
            return sink.digest()
    finally:
        os.close(fd)


def _make_durable(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_small_tree(fd, 1000)
    finally:
        os.close(fd)


def _name(chain_id: str | None) -> str:
    return "scratch" if chain_id is None else chain_id.removeprefix("sha256:")[:NAME_LENGTH]
