"""Files inside a root that may be hostile: openat2, directories, extended attributes and copies, all by descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat

from wherry.kernel import libc

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

AT_EMPTY_PATH = 0x1000  # include/uapi/linux/fcntl.h
AT_SYMLINK_NOFOLLOW = 0x100
FICLONE = 0x40049409  # include/uapi/linux/fs.h
_UNABLE = (errno.ENOSYS, errno.EBADF)  # before Linux 6.13; an O_PATH descriptor itself
_RETRIES = 64  # openat2 answers EAGAIN when a rename races with ".."; it may be asked again


LONGEST_PATH = 4094  # bytes from a root: what is deeper has no name there, and system calls refuse it (PATH_MAX, a slash and a null)


def has_name(path: str) -> bool:
    """Whether what has this relative path can be named by a path from the root."""
    return len(path) <= LONGEST_PATH // 4 or len(os.fsencode(path)) <= LONGEST_PATH


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _XattrArgs(ctypes.Structure):
    _fields_ = (("value", ctypes.c_uint64), ("size", ctypes.c_uint32), ("flags", ctypes.c_uint32))


_openat2 = libc.bind_syscall("openat2", ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)
_AT = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_setxattrat = libc.bind_syscall("setxattrat", *_AT, ctypes.c_char_p, ctypes.POINTER(_XattrArgs), ctypes.c_size_t)
_getxattrat = libc.bind_syscall("getxattrat", *_AT, ctypes.c_char_p, ctypes.POINTER(_XattrArgs), ctypes.c_size_t)
_listxattrat = libc.bind_syscall("listxattrat", *_AT, ctypes.c_char_p, ctypes.c_size_t)
_removexattrat = libc.bind_syscall("removexattrat", *_AT, ctypes.c_char_p)


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """A close-on-exec descriptor for ``path`` below ``dir_fd`` under the ``resolve`` rules.  Source: openat2(2)."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode if flags & (os.O_CREAT | os.O_TMPFILE) else 0, resolve)
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte in a path")
    for _ in range(_RETRIES):
        result = _openat2(dir_fd, name, how, ctypes.sizeof(how))
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    return libc.check(result, "openat2", name)


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as if ``root_fd`` were the root directory: symlinks and ".." cannot leave it, magic links are refused."""
    return openat2(root_fd, path, flags, mode=mode, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(root_fd: int, path: str | bytes, flags: int, mode: int = 0, *, symlinks: bool = False) -> int:
    """Open relative ``path`` strictly below ``root_fd``; without ``symlinks`` any symlink on the way is ELOOP."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (0 if symlinks else RESOLVE_NO_SYMLINKS)
    return openat2(root_fd, path, flags, mode=mode, resolve=resolve)


def mkdirs_in_root(root_fd: int, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> int:
    """Open the directory ``path`` inside the root (O_PATH), making it and its parents where they are missing.

    Only what is made gets ``mode`` (umask ignored), ``uid`` and ``gid``. A dangling symlink or a file in the way is an OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        return open_in_root(root_fd, path or ".", os.O_PATH | os.O_DIRECTORY)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    current = open_in_root(root_fd, ".", os.O_PATH | os.O_DIRECTORY)
    try:
        known, missing = 0, len(parts)  # so many names lead somewhere, so many do not; mostly the last alone is missing
        middle = missing - 1
        while known < middle:
            try:
                found = open_in_root(root_fd, "/".join(parts[:middle]), os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                missing = middle
            else:
                os.close(current)
                current, known = found, middle
            middle = (known + missing) // 2
        for part in parts[known:]:
            below = _made_directory(current, part, mode, uid, gid)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def _made_directory(parent_fd: int, name: str, mode: int, uid: int, gid: int) -> int:
    created = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        created = True
    if created:
        fd = open_beneath(parent_fd, name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                os.fchown(fd, uid, gid)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a user namespace that does not have the ids: then it is its maker's
                    raise
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
    return open_beneath(parent_fd, name, os.O_PATH | os.O_DIRECTORY)


def read_small_file(root_fd: int, path: str, limit_bytes: int) -> bytes:
    """The content of a regular file inside the root: a FIFO or device never blocks, more than ``limit_bytes`` is EFBIG."""
    fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        content = b""
        while chunk := os.read(fd, min(1 << 16, limit_bytes + 1 - len(content))):
            content += chunk
            if len(content) > limit_bytes:
                raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
        return content
    finally:
        os.close(fd)


def get_xattr(dir_fd: int, name: str | bytes, attribute: str) -> bytes:
    """An extended attribute of ``name`` in ``dir_fd``, of a symlink itself; an empty name means ``dir_fd`` (also O_PATH)."""
    target, flags = _at(name)
    size = 4096
    while True:
        buffer = ctypes.create_string_buffer(size)
        arguments = _XattrArgs(ctypes.addressof(buffer), size, 0)
        result = _getxattrat(dir_fd, target, flags, attribute.encode(), arguments, ctypes.sizeof(arguments))
        if result >= 0:
            return buffer.raw[:result]
        match ctypes.get_errno():
            case errno.ENOSYS | errno.EBADF:
                return os.getxattr(_through_proc(dir_fd, target), attribute, follow_symlinks=not target)
            case errno.ERANGE if size < 65536:
                size = 65536
            case _:
                libc.check(result, "getxattrat", target)


def set_xattr(dir_fd: int, name: str | bytes, attribute: str, value: bytes) -> None:
    """Set an extended attribute of ``name`` in ``dir_fd``, of a symlink itself; an empty name means ``dir_fd`` (also O_PATH)."""
    target, flags = _at(name)
    buffer = ctypes.create_string_buffer(value, len(value) or 1)
    arguments = _XattrArgs(ctypes.addressof(buffer), len(value), 0)
    result = _setxattrat(dir_fd, target, flags, attribute.encode(), arguments, ctypes.sizeof(arguments))
    if result < 0 and ctypes.get_errno() in _UNABLE:
        os.setxattr(_through_proc(dir_fd, target), attribute, value, follow_symlinks=not target)
        return
    libc.check(result, "setxattrat", target)


def list_xattrs(dir_fd: int, name: str | bytes) -> list[str]:
    """The names of all extended attributes; [] where the file system has none.  Arguments as `get_xattr`."""
    target, flags = _at(name)
    buffer = ctypes.create_string_buffer(65536)
    result = _listxattrat(dir_fd, target, flags, buffer, len(buffer))
    if result < 0:
        match ctypes.get_errno():
            case errno.ENOSYS | errno.EBADF:
                return os.listxattr(_through_proc(dir_fd, target), follow_symlinks=not target)
            case errno.EOPNOTSUPP:
                return []
        libc.check(result, "listxattrat", target)
    return [os.fsdecode(one) for one in buffer.raw[:result].split(b"\0") if one]


def remove_xattr(dir_fd: int, name: str | bytes, attribute: str) -> None:
    """Remove an extended attribute.  Arguments as `get_xattr`."""
    target, flags = _at(name)
    result = _removexattrat(dir_fd, target, flags, attribute.encode())
    if result < 0 and ctypes.get_errno() in _UNABLE:
        os.removexattr(_through_proc(dir_fd, target), attribute, follow_symlinks=not target)
        return
    libc.check(result, "removexattrat", target)


def copy_file(source_fd: int, target_fd: int) -> int:
    """Copy a regular file's whole content to an empty file, sharing blocks or in the kernel where possible, holes kept.

    Returns the size. The offset of either descriptor is undefined afterwards.
    """
    size = os.fstat(source_fd).st_size
    if size == 0:
        return 0
    try:
        fcntl.ioctl(target_fd, FICLONE, source_fd)
    except OSError:
        os.ftruncate(target_fd, size)
        offset = 0
        while offset < size:
            start, end = _data_range(source_fd, offset, size)
            _copy_range(source_fd, target_fd, start, end)
            offset = end
    return size


def _data_range(fd: int, offset: int, size: int) -> tuple[int, int]:
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (offset, size)


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source_fd, target_fd, min(end - start, 1 << 30), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
            copied = os.pwrite(target_fd, os.pread(source_fd, min(end - start, 1 << 20), start), start)
        if copied == 0:
            return  # the source became shorter meanwhile: the rest stays a hole
        start += copied


def _at(name: str | bytes) -> tuple[bytes, int]:
    target = os.fsencode(name)
    return target, AT_SYMLINK_NOFOLLOW if target else AT_EMPTY_PATH


def _through_proc(dir_fd: int, target: bytes) -> bytes:
    """What the calls above cannot reach: /proc/self/fd/N is followed to the file itself, /proc/self/fd/N/name is not followed further."""
    return b"/proc/self/fd/%d" % dir_fd + (b"/" + target if target else b"")
