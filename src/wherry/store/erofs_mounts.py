"""EROFS images mounted for all who need them: once each, until nobody does.

A container's own mount of its root holds on to the file system, so what is here may be unmounted at any time between two starts. A
daemon begins by unmounting what a former one left.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Callable, Collection, Sequence

from wherry.kernel import loop, mount

KIND = "erofs"
_IDLE = 32  # mounts that may stay though no active snapshot stands on them


class Mounts:
    """Directories below ``root_dir`` (on a file system that a reboot empties, best), each with one image mounted on it."""

    def __init__(self, root_dir: str, in_use: Callable[[], Collection[str]]) -> None:
        """``in_use``: the names that active snapshots need."""
        self._root_dir = root_dir
        self._in_use = in_use
        self._lock = threading.Lock()
        self._mounted: set[str] = set()
        self._asked: dict[str, int] = {}  # when each was asked for last, by count
        self._count = itertools.count()
        self.unmounted = 0  # how many have been, so that who remembers one can tell that it is still there

    def path(self, name: str, parts: Callable[[], tuple[str, Sequence[str]]]) -> str:
        """Where the image of this name is mounted from now on.

        ``parts``: the image and its devices, asked for when it is not mounted yet.  Raises OSError, and what ``parts`` raises.
        """
        target = os.path.join(self._root_dir, name)
        self._asked[name] = next(self._count)
        if name in self._mounted:  # without the lock, which is held while another is mounted
            return target
        with self._lock:
            if name in self._mounted:
                return target
            image, devices = parts()
            os.makedirs(target, mode=0o755, exist_ok=True)
            mount.attach(attach(image, devices), target)
            self._mounted.add(name)
            self._trim(name)
        return target

    def release(self, name: str) -> None:
        """The image is about to be removed."""
        with self._lock:
            if name in self._mounted:
                self._unmount(name)

    def clear(self) -> None:
        """Unmount everything, also what a former daemon mounted; containers that run keep what they have."""
        with self._lock:
            self._mounted.clear()
            self.unmounted += 1
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self._root_dir):
                    self._unmount(name)

    def _trim(self, newest: str) -> None:
        if len(self._mounted) <= _IDLE:
            return
        needed = self._in_use()
        idle = sorted((name for name in self._mounted if name not in needed and name != newest), key=lambda name: self._asked.get(name, 0))
        for name in idle[: max(len(idle) - _IDLE, 0)]:
            self._unmount(name)

    def _unmount(self, name: str) -> None:
        self._mounted.discard(name)
        self._asked.pop(name, None)
        self.unmounted += 1
        target = os.path.join(self._root_dir, name)
        while True:
            try:
                mount.umount2(target, mount.MNT_DETACH)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
                break
        with contextlib.suppress(OSError):
            os.rmdir(target)


def attach(image: str, devices: Sequence[str]) -> int:
    """A detached mount of ``image``: straight from the files, or by loop devices before Linux 6.12.  Raises OSError."""
    attributes = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NODEV
    try:
        return mount.new_mount(KIND, _options(devices), source=image, attributes=attributes)
    except OSError as error:
        if error.errno != errno.ENOTBLK:
            raise
    with contextlib.ExitStack() as held:
        paths = []
        for path in (image, *devices):
            fd, device = loop.attach(path)
            held.callback(os.close, fd)
            paths.append(device)
        return mount.new_mount(KIND, _options(paths[1:]), source=paths[0], attributes=attributes)


def _options(devices: Sequence[str]) -> list[tuple[str, str | None]]:
    return [("ro", None), *(("device", path) for path in devices)]
