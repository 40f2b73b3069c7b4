"""``--mount type=image``: another image's files inside a container, read-only; and parts of volumes (``volume-subpath``).

For the moment of a start the image, or the part, is mounted on a directory of the daemon's, where the container's first process takes its
own mount from; then it is unmounted. Nothing stays on the host, and a start sweeps what a crash left. Runtimes of others see an ordinary
bind mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager

from wherry.containers.container import Container
from wherry.containers.record import MountRecord
from wherry.engine.rooms import Rooms
from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import files, mount
from wherry.runtime.mounting import assemble_root
from wherry.spec.mounts import Rootfs


class ImageMounts:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._root = os.path.join(rooms.settings.run_root, "image-mounts")

    @asynccontextmanager
    async def shown(self, container: Container) -> AsyncIterator[Mapping[str, str]]:
        """Within the context every image mount's ``source`` is there; and where the parts of volumes show, by their destinations.

        Raises NotFound, InvalidRequest (the subpath), OSError.
        """
        wanted = [one for one in container.record.mounts if one.type == "image"]
        parts = [one for one in container.record.mounts if one.type == "volume" and one.subpath]
        if not wanted and not parts:
            yield {}
            return
        images = [self._rooms.images.get(one.image_id) for one in wanted]
        with self._rooms.images.layers.hold([chain_id for image in images for chain_id in image.chain_ids]), ExitStack() as undo:
            for number, (one, image) in enumerate(zip(wanted, images, strict=True)):
                place = os.path.join(self._root, f"{container.id[:24]}-{number}")
                view = self._rooms.snapshotter.view(image.top) if image.top else Rootfs()
                await self._rooms.workers.run(_attach, view.lower, place)
                undo.callback(_detach, place)
                one.source = _inside(place, one)
            places = {}
            for number, one in enumerate(parts):
                place = places[one.destination] = os.path.join(self._root, f"{container.id[:24]}-v{number}")
                volume = self._rooms.volumes.path(one.name)
                undo.callback(_detach, place)
                await self._rooms.workers.run(_attach_part, volume, one, place)
            yield places

    def sweep(self) -> None:
        """At start: what a daemon that was killed left mounted."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._root):
                _detach(os.path.join(self._root, name))


def _attach(lower: Sequence[str], place: str) -> None:
    os.makedirs(place, mode=0o700, exist_ok=True)
    if not lower:  # an image without layers
        return
    if len(lower) > 1 and not mount.takes_single_layers():
        raise NotSupported("mounting an image of several layers needs Linux 6.5")
    mount.attach(assemble_root(tuple(lower), None, None), place)


def place_of_part(volume: str, one: MountRecord) -> tuple[str, bool]:
    """Where in its volume a subpath leads, as a path from there, and whether to a directory.  Raises InvalidRequest in Docker's words."""
    part = _open_part(volume, one)
    try:
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{part}"), os.path.realpath(volume))
        return path, stat.S_ISDIR(os.fstat(part).st_mode)
    finally:
        os.close(part)


def _open_part(volume: str, one: MountRecord) -> int:
    """A volume's subpath, found without a step outside of it: its files are its containers', which may change them meanwhile."""
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return files.open_beneath(root, one.subpath, os.O_PATH, symlinks=True)
        except OSError as error:
            path = posixpath.join(volume, one.subpath)
            if error.errno == errno.EXDEV:
                words = f"path concatenation escapes the base directory, base: {volume}, subpath: {one.subpath}"
                raise InvalidRequest(words) from error
            raise InvalidRequest(f"cannot access path {path}: lstat {path}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        os.close(root)


def _attach_part(volume: str, one: MountRecord, place: str) -> None:
    part = _open_part(volume, one)
    try:
        if stat.S_ISDIR(os.fstat(part).st_mode):
            os.makedirs(place, mode=0o700, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            os.close(os.open(place, os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        tree = mount.open_tree(part, "", recursive=not one.non_recursive)
        try:
            fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                mount.move_mount(tree, fd)
            finally:
                os.close(fd)
        finally:
            os.close(tree)
    finally:
        os.close(part)


def _detach(place: str) -> None:
    with contextlib.suppress(OSError):
        mount.umount2(place, mount.MNT_DETACH)
    with contextlib.suppress(OSError):
        if os.path.isdir(place):
            os.rmdir(place)
        else:
            os.unlink(place)


def _inside(place: str, one: MountRecord) -> str:
    """The path of the subpath, symlinks in the image followed inside the image only."""
    if not one.subpath:
        return place
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = files.open_in_root(root, one.subpath, os.O_PATH)
        except OSError as error:
            path = posixpath.join(place, one.subpath)
            raise InvalidRequest(f"cannot access path {path}: lstat {path}: {os.strerror(error.errno or 0).lower()}") from error
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    finally:
        os.close(root)
