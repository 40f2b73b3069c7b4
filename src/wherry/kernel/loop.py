"""Loop devices: a file as a block device, for file systems that cannot be mounted from a file."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# include/uapi/linux/loop.h
LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
_CONFIG = struct.Struct("<II QQQQQ II II 64s64s32s 2Q 8Q")  # loop_config: fd, block_size, loop_info64, reserved
_TRIES = 64


def attach(path: str, block_size: int = 512) -> tuple[int, str]:
    """A read-only loop device over ``path``: its descriptor and its path.

    It goes when nobody has it open or mounted any more. Raises OSError.  Source: loop(4).
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
                fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR
                    name = os.fsencode(path)[-63:]
                    fcntl.ioctl(fd, LOOP_CONFIGURE, _CONFIG.pack(backing, block_size, *[0] * 8, flags, name, b"", b"", *[0] * 10))
                except OSError as error:
                    os.close(fd)
                    if error.errno != errno.EBUSY:  # another took it first
                        raise
                else:
                    return fd, device
            raise OSError(errno.EBUSY, "no free loop device", path)
        finally:
            os.close(control)
    finally:
        os.close(backing)
