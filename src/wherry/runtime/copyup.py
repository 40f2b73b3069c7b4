"""Fill an empty volume with what the image has at its destination."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from wherry.kernel import files, nodes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def fill(root_fd: int, destination: str, volume_fd: int) -> None:
    """Copy the directory ``destination`` of a root, with owner, mode, times and attributes, into the volume if that is empty.

    Nothing in the image leads out of its root, nothing is followed in the volume; a destination that is no directory fills nothing.
    """
    try:
        source = files.open_in_root(root_fd, destination, _DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    target = files.open_beneath(volume_fd, ".", _DIRECTORY)
    try:
        with os.scandir(target) as entries:
            if next(entries, None) is not None:
                return
        _copy_directory(source, target)
    finally:
        os.close(source)
        os.close(target)


def _copy_directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            below = files.open_beneath(source, name, _DIRECTORY), files.open_beneath(target, name, _DIRECTORY)
            try:
                _copy_directory(*below)
            finally:
                os.close(below[0])
                os.close(below[1])
        else:
            _copy_entry(source, target, name, status)
    _finish(source, target, "", os.fstat(source))


def _copy_entry(source: int, target: int, name: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        here = files.open_beneath(source, name, os.O_RDONLY | os.O_NONBLOCK)
        there = files.open_beneath(target, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            files.copy_file(here, there)
        finally:
            os.close(here)
            os.close(there)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    _finish(source, target, name, status)


def _finish(source: int, target: int, name: str, status: os.stat_result) -> None:
    """Owner before mode, since chown clears set-user-ID; attributes before times."""
    if name:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            nodes.chmod_node(target, name, stat.S_IMODE(status.st_mode))  # another container may have put a link there meanwhile
    else:
        os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
    for attribute in files.list_xattrs(source, name):
        if not attribute.startswith("trusted."):
            with contextlib.suppress(OSError):  # a volume's file system may not take what the image's does
                files.set_xattr(target, name, attribute, files.get_xattr(source, name, attribute))
    times = (status.st_atime_ns, status.st_mtime_ns)
    if name:
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
    else:
        os.utime(target, ns=times)
