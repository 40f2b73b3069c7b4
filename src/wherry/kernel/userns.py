"""User namespaces: their id maps, and a namespace that exists only as a descriptor, for id-mapped mounts."""

from __future__ import annotations

import os
import select
import signal
import struct
from collections.abc import Iterable

from wherry.kernel import controlfiles, namespace, process

IdMap = tuple[int, int, int]  # first id inside, first id outside, how many


def write_maps(process_dir: str, uids: Iterable[IdMap], gids: Iterable[IdMap]) -> None:
    """Give the new user namespace of a process, by its directory in /proc, its maps, once.  Source: user_namespaces(7)."""
    for name, maps in (("uid_map", uids), ("gid_map", gids)):
        text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in maps)
        if text:
            controlfiles.write(f"{process_dir}/{name}", text)


def maps_root(path: str) -> bool:
    """Whether a ``uid_map`` or ``gid_map`` has an id 0 inside."""
    return any(line.split()[0] == "0" for line in controlfiles.read(path).splitlines())


def open_mapped(uids: Iterable[IdMap], gids: Iterable[IdMap]) -> int:
    """A descriptor of a new user namespace with these maps and no process in it.

    The process that it takes shares our descriptors and opens its own directory in /proc: its pid may mean another process there.
    Raises OSError where it cannot.
    """
    readable, writable = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone(namespace.CLONE_NEWUSER | process.CLONE_FILES)
    if pid == 0:
        try:
            os.write(writable, struct.pack("i", os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
            signal.pause()
        finally:
            os._exit(1)
    try:
        answer = select.poll()  # the pipe has no end while we hold its other end too: the process has
        answer.register(readable, select.POLLIN)
        answer.register(pidfd, select.POLLIN)
        if readable not in dict(answer.poll()):
            raise OSError("the process that makes a user namespace could not open its directory in /proc")
        own = struct.unpack("i", os.read(readable, 4))[0]
        try:
            write_maps(f"/proc/self/fd/{own}", uids, gids)
            return os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
        finally:
            os.close(own)
    finally:
        process.end(pidfd)
        os.close(readable)
        os.close(writable)
