"""This process's own pages."""

from __future__ import annotations

import ctypes

from wherry.kernel import libc

_MADV_POPULATE_WRITE = 23  # include/uapi/asm-generic/mman-common.h, Linux 5.14

_madvise = libc.bind("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def populate_private() -> None:
    """After a fork: copy every writable private page now, so that no later write faults.  Does nothing on an older kernel."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        for line in file:
            span, permissions, _ = line.split(" ", 2)
            if permissions == "rw-p" and "[stack]" not in line:
                start, end = (int(one, 16) for one in span.split("-"))
                _madvise(start, end - start, _MADV_POPULATE_WRITE)
