"""Where the paths of an archive lead in a tree that is in memory: through symlinks, but never above the root."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Place = TypeVar("Place")
_MAX_LINKS: Final = 40
_REMEMBERED: Final = 4096


class Directories(Generic[Place]):
    """Directories by the paths that led to them.

    ``known``: the latest ones, to be looked in first by whoever has many to look for, and cleared when names may lead elsewhere.
    """

    def __init__(
        self,
        root: Place,
        look: Callable[[Place, str], Place | str | None],
        make: Callable[[Place, str, str, int], Place],
        fault: Callable[[Place, str], int],
    ) -> None:
        """``look``: what has a name in a directory: a directory, the text of a symlink, None for anything else or nothing; `fault` tells
        by an errno which of these. ``make``: a new directory of that name, for a whole path, with a time in nanoseconds; raises OSError
        where something has the name."""
        self._root = root
        self._look = look
        self._make = make
        self._fault = fault
        self.known: dict[str, Place] = {}

    def find(self, path: str, mtime_ns: int | None = None) -> Place:
        """The directory ``path``; made where it is missing, unless ``mtime_ns`` is None.  Raises OSError."""
        if not path:
            return self._root
        found = self.known.get(path)
        if found is None:
            found = self._walk(path, mtime_ns)
            self.remember(path, found)
        return found

    def remember(self, path: str, directory: Place) -> None:
        if len(self.known) >= _REMEMBERED:
            self.known.clear()
        self.known[path] = directory

    def _walk(self, path: str, mtime_ns: int | None) -> Place:
        stack = [self._root]
        pending = path.split("/")[::-1]
        own = len(pending)  # so many of the pending names are not from a symlink
        hops = 0
        while pending:
            name = pending.pop()
            from_link = len(pending) >= own
            own = min(own, len(pending))
            if name in ("", "."):
                continue
            if name == "..":
                del stack[max(1, len(stack) - 1) :]
                continue
            found = self._look(stack[-1], name)
            if found is None:
                if mtime_ns is None or from_link:
                    number = self._fault(stack[-1], name)
                    raise OSError(number, os.strerror(number), path)
                stack.append(self._make(stack[-1], name, path, mtime_ns))
            elif isinstance(found, str):
                hops += 1
                if hops > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if found.startswith("/"):
                    del stack[1:]
                pending += found.split("/")[::-1]
            else:
                stack.append(found)
        return stack[-1]
