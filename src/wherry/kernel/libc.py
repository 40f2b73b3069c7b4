"""Bind C functions and turn errno into OSError, here and nowhere else."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

_library = ctypes.CDLL(None, use_errno=True)

# asm-generic/unistd.h gives one number to every architecture from 424 on; older calls differ.
MACHINE = os.uname().machine
SYSCALLS = {
    "x86_64": {"pivot_root": 155, "seccomp": 317, "add_key": 248, "keyctl": 250, "tgkill": 234, "ioprio_set": 251, "rt_sigaction": 13},
    "aarch64": {"pivot_root": 41, "seccomp": 277, "add_key": 217, "keyctl": 219, "tgkill": 131, "ioprio_set": 30, "rt_sigaction": 134},
}.get(MACHINE, {})
SYSCALLS |= {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}


def bind(name: str, *argument_types: Any, result: Any = ctypes.c_int) -> Callable[..., int]:
    """The C function ``name`` with fixed argument and result types; errno is kept for `check`."""
    function = _library[name]
    function.argtypes = argument_types
    function.restype = result
    return function


def bind_syscall(name: str, *argument_types: Any) -> Callable[..., int]:
    """A system call without a wrapper in every libc, by its number on this architecture.

    On an architecture whose number is not known the call answers ENOSYS.
    """
    function = _library["syscall"]
    function.argtypes = (ctypes.c_long, *argument_types)
    function.restype = ctypes.c_long
    number = SYSCALLS.get(name, 0xFFFF)

    def call(*arguments: Any) -> int:
        result: int = function(number, *arguments)
        return result

    return call


def check(result: int, call: str, *paths: str | bytes) -> int:
    """``result`` of a C call, or OSError with errno, the call's name and up to two paths when it is negative."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    text = f"{call}: {os.strerror(number)}"
    match [os.fsdecode(path) for path in paths]:
        case [first]:
            raise OSError(number, text, first)
        case [first, second]:
            raise OSError(number, text, first, None, second)
        case _:
            raise OSError(number, text)
