"""A file that an administrator may edit while it is in use: read when it has changed, and what it said before holds while it is broken."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Reread(Generic[T]):
    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        """``parse``: what the text means; raises ValueError.  Raises OSError, ValueError."""
        self._path = path
        self._parse = parse
        self._stamp = self._stamped()
        self._value = self._parse(self._read().decode())

    def value(self) -> T:
        """What the file says by now, or said when it could be used last; what is wrong with its text is logged once for each change."""
        try:
            stamp = self._stamped()
            if stamp != self._stamp:
                raw = self._read()
                self._stamp = stamp
                self._value = self._parse(raw.decode())
        except (OSError, ValueError) as error:
            log.error("%s: %s", self._path, error)
        return self._value

    def _stamped(self) -> tuple[int, int, int]:
        facts = os.stat(self._path)
        return facts.st_mtime_ns, facts.st_size, facts.st_ino

    def _read(self) -> bytes:
        with open(self._path, "rb") as file:
            return file.read()
