"""Labels of security modules: which modules this kernel runs, and how a program and a mount get theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from wherry.runtime.failure import StartFailure, lowered
from wherry.runtime.options import MountOptions

_PROFILE = "exec "  # how a profile for the next program is told from a label
_LABELLED = frozenset({"tmpfs", "mqueue", "devpts", "ramfs", "overlay"})


def has_apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def has_selinux() -> bool:
    return os.path.exists("/sys/fs/selinux/enforce")


def open_files(apparmor: str, selinux: str) -> list[tuple[int, str]]:
    """(descriptor, text) of what `write` has to write; opened in the host's /proc, which a container cannot have forged."""
    found: list[tuple[int, str]] = []
    if apparmor:
        own = "/proc/self/attr/apparmor/exec"
        path = own if os.path.exists(own) else "/proc/self/attr/exec"
        found.append((os.open(path, os.O_WRONLY | os.O_CLOEXEC), f"{_PROFILE}{apparmor}"))
    if selinux:
        found.append((os.open("/proc/self/attr/exec", os.O_WRONLY | os.O_CLOEXEC), selinux))
    return found


def write(names: Sequence[tuple[int, str]]) -> None:
    """The next program of this process runs under these labels.  Raises StartFailure for one that there is not."""
    for fd, text in names:
        try:
            os.write(fd, text.encode())
        except OSError as error:
            name = text.removeprefix(_PROFILE)
            kind = "AppArmor profile" if text != name else "SELinux label"
            raise StartFailure(128, f"unable to apply the {kind} {name}: {lowered(error)}") from None
        os.close(fd)


def label(options: MountOptions, kind: str, text: str) -> MountOptions:
    """A mount of its own file system carries the container's label."""
    if not text or options.bind or kind not in _LABELLED:
        return options
    return replace(options, data=(*options.data, ("context", text)))
