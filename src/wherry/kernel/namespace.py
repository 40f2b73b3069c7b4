"""Namespaces: enter, leave, name."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

from wherry.kernel import libc

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_unshare = libc.bind("unshare", ctypes.c_int)
_setns = libc.bind("setns", ctypes.c_int, ctypes.c_int)
_sethostname = libc.bind("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = libc.bind("setdomainname", ctypes.c_char_p, ctypes.c_size_t)


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones; with CLONE_NEWPID the next child does.  Source: unshare(2)."""
    libc.check(_unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace ``fd`` (or, of a pidfd, all of ``kind``); a pid namespace holds for children.  Source: setns(2)."""
    libc.check(_setns(fd, kind), "setns")


@contextlib.contextmanager
def elsewhere() -> Iterator[int]:
    """Whatever mount namespace is entered, come back.  Gives a descriptor of the directory of this process's own namespaces in /proc."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    names = os.open("/proc/self/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=names)
    try:
        yield names
    finally:
        setns(own, CLONE_NEWNS)
        os.fchdir(root)
        os.chroot(".")
        for fd in (root, names, own):
            os.close(fd)


def sethostname(name: str) -> None:
    """Name the machine in this UTS namespace."""
    data = name.encode()
    libc.check(_sethostname(data, len(data)), "sethostname", data)


def setdomainname(name: str) -> None:
    """Set the NIS domain name in this UTS namespace."""
    data = name.encode()
    libc.check(_setdomainname(data, len(data)), "setdomainname", data)


def same(first: str, second: str) -> bool:
    """Whether two /proc/PID/ns files name one namespace."""
    return os.path.samestat(os.stat(first), os.stat(second))
