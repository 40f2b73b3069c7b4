"""How a process is scheduled: CPU policy, I/O priority, execution domain."""

from __future__ import annotations

import ctypes

from wherry.kernel import libc

# include/uapi/linux/sched.h
POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}  # include/uapi/linux/ioprio.h
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}  # include/uapi/linux/personality.h
EVERY_CPU = b"\xff" * 1024  # a bit for each, for more than any kernel knows; those that there are not do not count
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(libc.MACHINE, 0xFFFF)
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13


class _SchedAttr(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


_sched_setaffinity = libc.bind("sched_setaffinity", ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p)
_syscall = libc.bind("syscall", ctypes.c_long, ctypes.c_int, ctypes.POINTER(_SchedAttr), ctypes.c_uint, result=ctypes.c_long)
_ioprio_set = libc.bind_syscall("ioprio_set", ctypes.c_int, ctypes.c_int, ctypes.c_int)
_personality = libc.bind("personality", ctypes.c_ulong)


def use_every_cpu() -> None:
    """Let this process run on all that its cpuset allows."""
    libc.check(_sched_setaffinity(0, len(EVERY_CPU), EVERY_CPU), "sched_setaffinity")


def set_scheduler(
    policy: int, *, flags: int = 0, nice: int = 0, priority: int = 0, runtime: int = 0, deadline: int = 0, period: int = 0
) -> None:
    """Set this process's policy and its parameters; times in nanoseconds.  Source: sched_setattr(2)."""
    attributes = _SchedAttr(ctypes.sizeof(_SchedAttr), policy, flags, nice, priority, runtime, deadline, period)
    libc.check(_syscall(_SCHED_SETATTR, 0, attributes, 0), "sched_setattr")


def set_io_priority(kind: int, level: int) -> None:
    """Set this process's I/O class and level.  Source: ioprio_set(2)."""
    libc.check(_ioprio_set(_IOPRIO_WHO_PROCESS, 0, kind << _IOPRIO_CLASS_SHIFT | level), "ioprio_set")


def set_personality(domain: int) -> None:
    """Set the execution domain.  Source: personality(2)."""
    libc.check(_personality(domain), "personality")


def cpus(text: str) -> set[int]:
    """The processors of a list like "0-3,7".  Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return found
