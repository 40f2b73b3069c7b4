"""What each account of a registry may do where: a file of lines ``NAME REPOSITORIES RIGHT``.

``NAME`` is one of the password file, or ``*`` for every one of them. ``REPOSITORIES`` is a pattern (``*`` is any text, slashes too).
``RIGHT`` is ``pull``, ``push`` (and so pull) or ``delete`` (and so push). What no line allows is refused. The file is read again when it
changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase

from wherry.registry.reread import Reread


class Right(IntEnum):
    """Each has those before it."""

    PULL = 1
    PUSH = 2
    DELETE = 3


class BadRightsFile(ValueError):
    """The file can't be used; the message names the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    pattern: str
    right: Right


class Rights:
    def __init__(self, path: str) -> None:
        """Raises OSError, BadRightsFile."""
        self._lines = Reread(path, parse)

    def may(self, user: str, repository: str, right: Right) -> bool:
        lines = self._lines.value()
        return any(right <= line.right and line.name in ("*", user) and fnmatchcase(repository, line.pattern) for line in lines)


def parse(text: str) -> tuple[Line, ...]:
    """Raises BadRightsFile."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[2].upper() not in Right.__members__:
            raise BadRightsFile(f"line {number}: not NAME REPOSITORIES pull|push|delete")
        found.append(Line(name=words[0], pattern=words[1], right=Right[words[2].upper()]))
    return tuple(found)
