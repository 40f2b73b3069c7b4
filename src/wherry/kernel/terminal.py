"""Pseudo terminals."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from wherry.kernel import files

_TIOCGPTPEER = 0x5441  # include/uapi/asm-generic/ioctls.h
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430


def open_pair(pts_fd: int) -> tuple[int, int, int]:
    """(master, slave, number) from the devpts mounted at ``pts_fd``; the slave by ioctl, never by a path.  Source: ioctl_tty(2)."""
    master = files.open_beneath(pts_fd, "ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("i", 0)))[0]
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave, number


def set_size(fd: int, *, height: int, width: int) -> None:
    """Tell the terminal its size; the foreground program gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))


def make_controlling(fd: int) -> None:
    """Make ``fd`` the controlling terminal of this session."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
