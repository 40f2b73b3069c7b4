"""Network namespaces of a single thread: leave for a fresh one, enter another, and its loopback.  Source: unshare(2), setns(2)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from ctypes import c_int

from wherry.kernel import libc

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # include/uapi/linux/sockios.h, if.h
_FLAGS = struct.Struct("16sh22x")  # struct ifreq

_unshare = libc.bind("unshare", c_int)
_setns = libc.bind("setns", c_int, c_int)


def unshare_network() -> None:
    """Move the calling thread into a new network namespace, where only a downed ``lo`` exists."""
    libc.check(_unshare(CLONE_NEWNET), "unshare")


def enter_network(netns_fd: int) -> None:
    """Move the calling thread into the network namespace that ``netns_fd`` refers to."""
    libc.check(_setns(netns_fd, CLONE_NEWNET), "setns")


def current_network() -> int:
    """A close-on-exec descriptor of the calling thread's network namespace; the caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def raise_loopback() -> None:
    """Set ``lo`` of this network namespace up.  Source: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        flags = _FLAGS.unpack(fcntl.ioctl(handle, _SIOCGIFFLAGS, _FLAGS.pack(b"lo", 0)))[1]
        fcntl.ioctl(handle, _SIOCSIFFLAGS, _FLAGS.pack(b"lo", flags | _IFF_UP))
