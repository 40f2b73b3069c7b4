"""Let a file's bytes go to the disk while more come, so that the fsync at its end has little left to wait for."""

from __future__ import annotations

import contextlib
import ctypes

from wherry.kernel import libc

SYNC_FILE_RANGE_WRITE = 2  # include/uapi/linux/fs.h

_sync_file_range = libc.bind("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def start(fd: int, offset: int, size: int) -> None:
    """Begin to write ``size`` bytes from ``offset`` on; a hint, and no promise.  Source: sync_file_range(2)."""
    with contextlib.suppress(OSError):
        libc.check(_sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE), "sync_file_range")
