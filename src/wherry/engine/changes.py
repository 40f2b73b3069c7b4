"""Being told when a folder or a file changes: one inotify descriptor for all who wait, as a user may have but 128 of them."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from wherry.errors import Unavailable
from wherry.kernel import inotify

_EVENT = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, length of the name
_MASK = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO


class Changes:
    """The descriptor is there while somebody watches."""

    def __init__(self) -> None:
        self._fd = -1
        self._watched: dict[int, list[Callable[[], object]]] = {}  # by the kernel's number of the folder or file

    @contextmanager
    def of(self, folder: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change in ``folder``; who waits clears it.  Raises Unavailable, FileNotFoundError."""
        event = asyncio.Event()
        try:
            end = self.watch(folder, event.set)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unavailable(f"following is not possible now: {error}") from error
        try:
            yield event
        finally:
            end()

    def watch(self, path: str, tell: Callable[[], object]) -> Callable[[], None]:
        """Call ``tell`` at every change of the folder or file ``path``; the answer ends that.  Raises OSError."""
        number = self._add(path)
        self._watched.setdefault(number, []).append(tell)
        return partial(self._end, number, tell)

    def _end(self, number: int, tell: Callable[[], object]) -> None:
        self._watched[number].remove(tell)
        if not self._watched[number]:
            del self._watched[number]
            with suppress(OSError):  # what was watched has gone, and the watch with it
                inotify.remove_watch(self._fd, number)
        if not self._watched:
            self._close()

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _add(self, path: str) -> int:
        try:
            if self._fd < 0:
                self._fd = inotify.init()
                asyncio.get_running_loop().add_reader(self._fd, self._read)
            return inotify.add_watch(self._fd, path, _MASK)
        except OSError:
            if self._fd >= 0 and not self._watched:
                self._close()
            raise

    def _read(self) -> None:
        changed: set[int] = set()
        with suppress(BlockingIOError):
            while data := os.read(self._fd, 65536):
                changed |= set(_numbers(data))
        told = self._watched if -1 in changed else changed & self._watched.keys()  # -1: the kernel's queue ran over
        for number in list(told):  # whoever is told may end a watch
            for tell in list(self._watched.get(number, ())):
                tell()


def _numbers(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        number, _, _, length = _EVENT.unpack_from(data, at)
        yield number
        at += _EVENT.size + length
