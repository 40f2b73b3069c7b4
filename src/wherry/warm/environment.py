"""An environment as the kernel keeps it.  Only built-in modules: a command that is started cold needs it too."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


_HARMLESS = (b"PYTHONDONTWRITEBYTECODE", b"PYTHONUNBUFFERED")


def parse(block: bytes) -> dict[bytes, bytes]:
    """The variables of /proc/PID/environ; of a name that is there twice the first counts, as for getenv(3)."""
    found: dict[bytes, bytes] = {}
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name:
            found.setdefault(name, value)
    return found


def replace(variables: dict[bytes, bytes]) -> None:
    """Make ``variables`` this process's environment."""
    os.environb.clear()
    os.environb.update(variables)


def concerns_python(variables: Iterable[bytes]) -> bool:
    """Whether one of these names changes how an interpreter starts, beyond what it can take back later."""
    return any(name.startswith(b"PYTHON") and name not in _HARMLESS for name in variables)
