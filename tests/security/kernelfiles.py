"""Which files of /proc and /sys a process may write to that has a container's namespaces and capabilities."""

from __future__ import annotations

import os
import re
import stat

from wherry.kernel import credentials, namespace
from wherry.runtime import defaults

_LINKS = re.compile(r"/proc/\d+(/task/\d+)?/(fd|fdinfo|root|cwd|map_files|ns)")


def writable(pid: int) -> set[str]:
    """Of the container of ``pid``: paths, process ids as N.  What the mode does not let anyone write to is not asked for."""
    pidfd = os.pidfd_open(pid)
    readable, writing = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            namespace.setns(pidfd, namespace.CLONE_NEWPID | namespace.CLONE_NEWNS | namespace.CLONE_NEWNET)
            if os.fork() == 0:
                _look(writing)
            os.wait()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(readable) as answer:
        found = answer.read().split()
    os.waitpid(outer, 0)  # of all children just this one: the process has others
    os.close(pidfd)
    return set(found)


def _look(answer: int) -> None:
    """Never returns."""
    try:
        os.chdir("/")
        mask = credentials.mask(defaults.CAPABILITIES)
        credentials.drop_bounding(mask)
        credentials.capset(effective=mask, permitted=mask, inheritable=0)
        found = {re.sub(r"/\d+", "/N", path) for top in ("/proc", "/sys") for path in _files(top) if _is_writable(path)}
        with os.fdopen(answer, "w") as out:
            out.write("\n".join(sorted(found)))
    finally:
        os._exit(0)


def _files(top: str) -> list[str]:
    found = []
    for folder, folders, names in os.walk(top):
        if _LINKS.fullmatch(folder):
            folders.clear()
            continue
        found += [os.path.join(folder, name) for name in (*names, *folders)]
    return found


def _is_writable(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
    return bool(status.st_mode & 0o222) and not null and not stat.S_ISLNK(status.st_mode) and os.access(path, os.W_OK)
