"""Being told when files change.  Source: inotify(7)."""

from __future__ import annotations

import os
from ctypes import c_char_p, c_int, c_uint32

from wherry.kernel import libc

# include/uapi/linux/inotify.h
IN_MODIFY = 0x002
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK

_inotify_init1 = libc.bind("inotify_init1", c_int)
_inotify_add_watch = libc.bind("inotify_add_watch", c_int, c_char_p, c_uint32)
_inotify_rm_watch = libc.bind("inotify_rm_watch", c_int, c_int)


def init() -> int:
    """A new inotify descriptor, close-on-exec and non-blocking; the caller closes it."""
    return libc.check(_inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1")


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch ``path`` for the events of ``mask``; the watch's number.  Raises OSError: FileNotFoundError, ENOSPC at the user's limit."""
    return libc.check(_inotify_add_watch(fd, os.fsencode(path), mask), "inotify_add_watch", path)


def remove_watch(fd: int, number: int) -> None:
    """End a watch.  Raises OSError: EINVAL when it has ended, because what it watched is gone."""
    libc.check(_inotify_rm_watch(fd, number), "inotify_rm_watch")
