"""Landlock: what this process and its children may still do in the file system, whoever they are.

Source: include/uapi/linux/landlock.h; Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

from wherry.kernel import libc

_CREATE_RULESET_VERSION = 1 << 0
_RULE_PATH_BENEATH = 1
_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}  # rights each version knows, no gaps
_NETWORK = 0b11  # bind and connect of TCP, from version 4
_SCOPES = 0b11  # abstract sockets and signals, from version 6
_VERSIONS = 6  # the newest known here


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


_create = libc.bind_syscall("landlock_create_ruleset", ctypes.POINTER(_Ruleset), ctypes.c_size_t, ctypes.c_uint)
_add_rule = libc.bind_syscall("landlock_add_rule", ctypes.c_int, ctypes.c_int, ctypes.POINTER(_PathBeneath), ctypes.c_uint)
_restrict = libc.bind_syscall("landlock_restrict_self", ctypes.c_int, ctypes.c_uint)


def version() -> int:
    """The kernel's, 0 where it has none or it is switched off."""
    found = _create(None, 0, _CREATE_RULESET_VERSION)
    if found < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EOPNOTSUPP):
        libc.check(found, "landlock_create_ruleset")
    return max(found, 0)


def confine(directories: Iterable[int]) -> int:
    """From now on nothing can be opened, made or removed but below these directories, nothing bound or connected.

    What is open stays open. Returns the version used, 0 when nothing was done. Needs no_new_privs or CAP_SYS_ADMIN.
    """
    known = min(version(), _VERSIONS)
    if not known:
        return 0
    rights = _FILES[min(known, max(_FILES))]
    ruleset = _Ruleset(rights, _NETWORK if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    fd = libc.check(_create(ruleset, size, 0), "landlock_create_ruleset")
    try:
        for directory in directories:
            libc.check(_add_rule(fd, _RULE_PATH_BENEATH, _PathBeneath(rights, directory), 0), "landlock_add_rule")
        libc.check(_restrict(fd, 0), "landlock_restrict_self")
    finally:
        os.close(fd)
    return known
