"""What a check of the disk finds, and how a damaged thing is put aside without being destroyed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

Tick = Callable[[], object]
"""Called often in a long check; it may raise, to end that."""


def no_tick() -> None:
    """For a check that nobody ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``subject`` and the ``fact`` about it; ``remedy``: what ``mend`` does, or what a user can do where there is none.

    ``mend`` may be called once, soon; it raises OSError, ValueError, LookupError.
    """

    subject: str
    fact: str
    remedy: str
    mend: Callable[[], object] | None = None


def quarantine(data_root: str, path: str, name: str) -> str:
    """Move what is at ``path`` to where nothing looks for it: the new place.  An absent one is success."""
    target = _place(data_root, name)
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return target
    return target


def keep(data_root: str, name: str, data: bytes) -> str:
    """Write ``data`` where `quarantine` moves things: the file."""
    target = _place(data_root, name)
    with open(target, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return target


def _place(data_root: str, name: str) -> str:
    folder = os.path.join(data_root, "quarantine")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.path.join(folder, f"{name}-{time.time_ns()}")
