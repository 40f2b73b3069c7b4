"""Modes of what must not be opened (device nodes, FIFOs) or may be swapped for a link meanwhile; durability of a whole file system."""

from __future__ import annotations

import ctypes
import errno
import os

from wherry.kernel import libc

_FCHMODAT2 = 452  # asm-generic/unistd.h, Linux 6.6
_AT_SYMLINK_NOFOLLOW = 0x100  # include/uapi/linux/fcntl.h
_syscall = libc.bind("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, result=ctypes.c_long)
_syncfs = libc.bind("syncfs", ctypes.c_int)


def chmod_node(dir_fd: int, name: str | bytes, mode: int) -> None:
    """Set the mode of ``name`` in ``dir_fd`` itself, never of what a symlink there points to.  Source: fchmodat2(2).

    Before Linux 6.6 by way of /proc/self/fd, which must then be mounted.
    """
    result = _syscall(_FCHMODAT2, dir_fd, os.fsencode(name), mode, _AT_SYMLINK_NOFOLLOW)
    if result < 0 and ctypes.get_errno() == errno.ENOSYS:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)
        return
    libc.check(result, "fchmodat2", name)


def syncfs(fd: int) -> None:
    """Make everything written to the file system that holds ``fd`` durable.  Source: syncfs(2)."""
    libc.check(_syncfs(fd), "syncfs")
