"""Who a process is: capabilities, ids, resource limits."""

from __future__ import annotations

import ctypes
import errno
import resource
import struct
from collections.abc import Iterable

from wherry.kernel import libc, process

# include/uapi/linux/capability.h, in order of their numbers
NAMES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"),
    *("CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK"),
    *("CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN"),
    *("CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE"),
    *("CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM"),
    *("CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"),
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = 1 << NUMBERS["CAP_SYS_ADMIN"]
_VERSION_3 = 0x20080522
PR_CAPBSET_READ = 23  # include/uapi/linux/prctl.h
PR_CAPBSET_DROP = 24
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_Pair = _Data * 2  # made once: a new type writes to many pages that a fork shares

_capset = libc.bind("capset", ctypes.POINTER(_Header), ctypes.POINTER(_Data))
_capget = libc.bind("capget", ctypes.POINTER(_Header), ctypes.POINTER(_Data))


def mask(names: Iterable[str]) -> int:
    """The bits of capability names.  Raises ValueError for one this program does not know."""
    bits = 0
    for name in names:
        try:
            bits |= 1 << NUMBERS[name]
        except KeyError:
            raise ValueError(f"unknown capability {name}") from None
    return bits


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this process."""
    data = _Pair()
    libc.check(_capget(_Header(_VERSION_3, 0), data), "capget")
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(*, effective: int, permitted: int, inheritable: int) -> None:
    """Set this process's capabilities.  Source: capset(2)."""
    low = 0xFFFFFFFF
    data = _Pair(
        _Data(effective & low, permitted & low, inheritable & low),
        _Data(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    libc.check(_capset(_Header(_VERSION_3, 0), data), "capset")


def encoded(*, effective: int, permitted: int, inheritable: int) -> tuple[bytes, bytes]:
    """What capset(2) takes: the header and the data."""
    words = [value >> shift & 0xFFFFFFFF for shift in (0, 32) for value in (effective, permitted, inheritable)]
    return struct.pack("<Ii", _VERSION_3, 0), struct.pack("<6I", *words)


def bounding() -> list[int]:
    """The numbers in this process's bounding set, also those newer than this program."""
    return [number for number in range(64) if _is_bounding(number)]


def drop_bounding(keep: int) -> None:
    """Take every capability outside ``keep`` from the bounding set, also those newer than this program."""
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            process.prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL and number >= len(NAMES):  # past the last one this kernel has
                return
            if error.errno != errno.EPERM or _is_bounding(number):
                raise


def _is_bounding(number: int) -> bool:
    try:
        return process.prctl(PR_CAPBSET_READ, number) == 1
    except OSError:  # no capability
        return False


def numbers(bits: int) -> list[int]:
    """The capabilities of a set."""
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def raise_ambient(bits: int) -> None:
    """Put capabilities, which must be permitted and inheritable, into the ambient set.  Source: capabilities(7)."""
    for number in numbers(bits):
        process.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def set_rlimit(name: str, soft: int, hard: int, *, exact: bool = False, pid: int = 0) -> None:
    """Set RLIMIT_* of ``pid``, 0 for this process; values from 2**63 on mean no limit.

    What may not be raised is set as high as it may, or is an error when it has to be ``exact``.
    """
    number: int = getattr(resource, name)
    wanted = tuple(resource.RLIM_INFINITY if value >= 1 << 63 else value for value in (soft, hard))
    try:
        resource.prlimit(pid, number, (wanted[0], wanted[1]))
    except (PermissionError, ValueError):
        if exact:
            raise
        ceiling = resource.getrlimit(number)[1]
        allowed = [value if ceiling == resource.RLIM_INFINITY or 0 <= value <= ceiling else ceiling for value in wanted]
        resource.setrlimit(number, (allowed[0], allowed[1]))
