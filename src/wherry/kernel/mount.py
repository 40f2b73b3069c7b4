"""Mounts by descriptor: fsopen, open_tree, move_mount, mount_setattr, and the older calls beside them."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack

from wherry.kernel import libc

# include/uapi/linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 0x2
OPEN_TREE_CLONE = 0x1
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"), ("xino", "on"))
_SETTING_BYTES = 255
_OVERLAY_PAGE = 4000  # mount(2) takes one page of options


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_mount = libc.bind("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = libc.bind("umount2", ctypes.c_char_p, ctypes.c_int)
_pivot_root = libc.bind_syscall("pivot_root", ctypes.c_char_p, ctypes.c_char_p)
_open_tree = libc.bind_syscall("open_tree", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_move_mount = libc.bind_syscall("move_mount", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_fsopen = libc.bind_syscall("fsopen", ctypes.c_char_p, ctypes.c_uint)
_fsconfig = libc.bind_syscall("fsconfig", ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_fsmount = libc.bind_syscall("fsmount", ctypes.c_int, ctypes.c_uint, ctypes.c_uint)
_mount_setattr = libc.bind_syscall(
    "mount_setattr", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(_MountAttr), ctypes.c_size_t
)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """The classic call.  Source: mount(2)."""
    result = _mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data) or None)
    libc.check(result, "mount", source, target)


def set_propagation(target: str, flags: int) -> None:
    """Make ``target`` MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE, with MS_REC also what is below."""
    libc.check(_mount(None, os.fsencode(target), None, flags, None), "mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """Take a mount away; MNT_DETACH: now by name, later in fact.  Source: umount2(2)."""
    libc.check(_umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Source: pivot_root(2); with "." twice the old root lies on top and is taken away by ``umount2(".", MNT_DETACH)``."""
    libc.check(_pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root, put_old)


def open_tree(dir_fd: int, path: str, *, clone: bool = True, recursive: bool = False) -> int:
    """A descriptor for the mount at ``path``; with ``clone`` a detached copy, not yet visible anywhere.  Empty: ``dir_fd`` itself."""
    flags = os.O_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive and clone else 0)
    name = os.fsencode(path)
    return libc.check(_open_tree(dir_fd, name, flags | (0 if name else AT_EMPTY_PATH)), "open_tree", name)


def move_mount(tree_fd: int, target_fd: int) -> None:
    """Attach a detached mount on what ``target_fd`` (O_PATH) names."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    libc.check(_move_mount(tree_fd, b"", target_fd, b"", flags), "move_mount")


def move_onto(tree_fd: int, target_fd: int) -> None:
    """`move_mount`, and close ``target_fd``."""
    try:
        move_mount(tree_fd, target_fd)
    finally:
        os.close(target_fd)


def attach(tree_fd: int, path: str) -> None:
    """Attach a detached mount on ``path``, and close it: it is kept by where it is.  Raises OSError."""
    try:
        move_onto(tree_fd, os.open(path, os.O_PATH | os.O_CLOEXEC))
    finally:
        os.close(tree_fd)


def mount_setattr(tree_fd: int, *, add: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False) -> None:
    """Change the attributes of a mount, with ``recursive`` of all below it.  Source: mount_setattr(2)."""
    attributes = _MountAttr(add, clear, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    libc.check(_mount_setattr(tree_fd, b"", flags, attributes, ctypes.sizeof(attributes)), "mount_setattr")


def idmap(tree_fd: int, userns_fd: int, *, recursive: bool = False) -> None:
    """Show a detached mount, with ``recursive`` all below it, through the id maps of a user namespace."""
    attributes = _MountAttr(MOUNT_ATTR_IDMAP, 0, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    libc.check(_mount_setattr(tree_fd, b"", flags, attributes, ctypes.sizeof(attributes)), "mount_setattr")


def new_mount(kind: str, options: Iterable[tuple[str, str | None]] = (), *, source: str = "", attributes: int = 0) -> int:
    """A new file system as a detached mount.  ``options``: (key, value), value None for a flag.

    Raises OSError with the kernel's own explanation where it gives one.  Source: fsopen(2), fsconfig(2), fsmount(2).
    """
    with ExitStack() as held:
        context = libc.check(_fsopen(kind.encode(), 1), "fsopen", kind)
        held.callback(os.close, context)
        if source:
            _configure(context, kind, FSCONFIG_SET_STRING, "source", _short(source, held))
        for key, value in options:
            if value is None:
                _configure(context, kind, FSCONFIG_SET_FLAG, key, None)
            else:
                _configure(context, kind, FSCONFIG_SET_STRING, key, _short(value, held))
        _configure(context, kind, FSCONFIG_CMD_CREATE, None, None)
        return libc.check(_fsmount(context, 1, attributes), "fsmount", kind)


def _short(value: str, held: ExitStack) -> str:
    """fsconfig(2) takes no longer text than this: a path that is longer is told by a descriptor, which ``held`` closes."""
    if not _is_long(value):
        return value
    fd = os.open(value, os.O_PATH | os.O_CLOEXEC)
    held.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _is_long(value: str) -> bool:
    return len(os.fsencode(value)) > _SETTING_BYTES and value.startswith("/")


def overlay(lower: list[str], upper: str | None, work: str | None, *, attributes: int = 0, options: Iterable[tuple[str, str]] = ()) -> int:
    """A detached overlay mount; ``lower`` top first.

    An upper directory is complete in itself, whatever the kernel was built to do; and all files show one st_dev, as tar --one-file-system
    needs, though layers lie on several file systems.
    Before Linux 6.5 (no ``lowerdir+``) it is made by mount(2) with relative paths, so that 127 layers fit into its one page of options:
    that changes the working directory for a moment, and shows the mount in this mount namespace for as long.

    Raises OSError, also where the kernel would show the tree for reading only, as there is no room for its directory in ``work``.
    """
    fd = _overlay(lower, upper, work, attributes, options)
    if work is not None and not attributes & MOUNT_ATTR_RDONLY and os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        os.close(fd)
        raise _unwritable(work)
    return fd


def _unwritable(work: str) -> OSError:
    """Why the kernel could make no directory there."""
    attempt = os.path.join(work, f"room-{os.getpid()}")
    try:
        os.mkdir(attempt)
        os.rmdir(attempt)
    except OSError as error:
        return OSError(error.errno, error.strerror, work)
    return OSError(errno.EROFS, os.strerror(errno.EROFS), work)


def _overlay(lower: list[str], upper: str | None, work: str | None, attributes: int, options: Iterable[tuple[str, str]]) -> int:
    options = (*_OVERLAY_OPTIONS, *options)
    writable = [("upperdir", upper), ("workdir", work)] if upper is not None and work is not None else []
    if takes_single_layers():
        # of these, not of layers, a backslash takes the next; what is too long is told without
        escaped = [(key, path if _is_long(path) else path.replace("\\", "\\\\")) for key, path in writable]
        settings: list[tuple[str, str | None]] = [*(("lowerdir+", one) for one in lower), *options, *escaped]
        return new_mount("overlay", settings, source="overlay", attributes=attributes)
    places = [*lower, *(path for _, path in writable)]
    base = os.path.commonpath([os.path.dirname(place) for place in places])
    joined = ":".join(_relative(place, base) for place in lower)
    data = ",".join(
        [f"lowerdir={joined}", *(f"{key}={value}" for key, value in options), *(f"{key}={_relative(path, base)}" for key, path in writable)]
    )
    if len(os.fsencode(data)) > _OVERLAY_PAGE:
        raise OSError(errno.E2BIG, "this kernel cannot stack so many layers: overlay needs lowerdir+ (Linux 6.5)")
    return _detached_overlay(base, upper or lower[0], data, attributes)


def takes_single_layers() -> bool:
    """Whether overlay takes its layers one by one (``lowerdir+``), without any change of the working directory."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)) >= (6, 5)


def _relative(path: str, base: str) -> str:
    return os.path.relpath(path, base).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _detached_overlay(base: str, spot: str, data: str, attributes: int) -> int:
    before = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(base)
        mount("overlay", spot, "overlay", 0, data)
        try:
            tree = open_tree(AT_FDCWD, spot)
        finally:
            umount2(spot, MNT_DETACH)
    finally:
        os.fchdir(before)
        os.close(before)
    if attributes:
        mount_setattr(tree, add=attributes)
    return tree


def _configure(context: int, kind: str, command: int, key: str | None, value: str | None) -> None:
    name = None if key is None else key.encode()
    if _fsconfig(context, command, name, None if value is None else os.fsencode(value), 0) >= 0:
        return
    number = ctypes.get_errno()
    setting = "" if key is None else f" {key}" + ("" if value is None else f"={value}")
    raise OSError(number, f"mount {kind}{setting}: {os.strerror(number)}{_explanation(context)}")


def _explanation(context: int) -> str:
    """What the kernel wrote about the failure, one message per read."""
    lines = []
    while True:
        try:
            lines.append(os.read(context, 1024).decode(errors="replace").strip())
        except OSError:
            return f" ({'; '.join(lines)})" if lines else ""


def sharing(path: str, mountinfo: str = "/proc/self/mountinfo") -> tuple[str, str]:
    """The mount that holds the existing ``path``: where it is, and its optional fields (``shared:1 master:2``).

    Source: proc_pid_mountinfo(5).
    """
    real = os.path.realpath(path)
    place, fields = "/", ""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.partition(" - ")[0].split(" ")
            target = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])  # blanks and backslashes are escaped
            if len(target) >= len(place) and (real == target or real.startswith(target.rstrip("/") + "/")):
                place, fields = target, " ".join(words[6:])
    return place, fields
