"""What a process that reads hostile archives keeps: the descriptors it was given, memory, time.  No name of any file outside, no network.

For a forked child of the zygote with one thread. Where the kernel has no Landlock the rest holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from wherry.kernel import credentials, landlock, libc, process, seccomp

MEMORY_BYTES = 1 << 30
CPU_S = 900
_ERRNO_EPERM = seccomp.RET_ERRNO | 1
_COMPUTING = (
    "brk clock_gettime clock_nanosleep close dup dup3 exit exit_group fallocate fcntl fstat ftruncate futex getpeername getpid getrandom "
    "getsockname getsockopt gettid lseek madvise mmap mprotect mremap munmap newfstatat poll ppoll pread64 pwrite64 read readv "
    "recvfrom recvmsg restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sched_yield select sendmsg sendto shutdown "
    "sigaltstack write writev"
).split()
_FILES = (
    "close_range copy_file_range fchmod fchmodat fchmodat2 fchown fchownat fdatasync fgetxattr flistxattr fremovexattr "
    "fsetxattr fstatfs fsync getdents64 getegid geteuid getgid getuid getxattrat ioctl lgetxattr linkat listxattrat llistxattr "
    "lsetxattr mkdirat mknodat openat openat2 readlinkat removexattrat renameat renameat2 setxattr setxattrat statx symlinkat "
    "sync_file_range umask unlinkat utimensat"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one kind of work needs.  ``directories``: how many of its last descriptors are directories that it fills.

    ``cpu_s``: its processor time; None for work that is as large as a container.
    """

    directories: int = 0
    capabilities: int = 0
    cpu_s: int | None = CPU_S


def confine(cell: Cell, fds: Sequence[int], control_fd: int) -> None:
    """From here on this process can do nothing but its work.  Raises OSError."""
    process.close_others(control_fd, *fds)
    limits = {"RLIMIT_DATA": MEMORY_BYTES, "RLIMIT_CPU": cell.cpu_s, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
    for name, limit in limits.items():
        if limit is not None:
            credentials.set_rlimit(name, limit, limit)
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    landlock.confine(fds[len(fds) - cell.directories :])
    kept = cell.capabilities & credentials.capget()[1]
    credentials.capset(effective=kept, permitted=kept, inheritable=0)
    seccomp.load(program(files=cell.directories > 0))


@cache
def program(*, files: bool) -> bytes:
    """The system call filter; the zygote makes both before it forks."""
    with open(os.path.join(os.path.dirname(__file__), "syscalls.json"), encoding="utf-8") as table:
        numbers = json.load(table)["tables"][libc.MACHINE]
    allowed = [numbers[name] for name in (*_COMPUTING, *(_FILES if files else ())) if name in numbers]
    rules = {number: [seccomp.Rule(seccomp.RET_ALLOW)] for number in allowed}
    return seccomp.assemble({libc.MACHINE: rules}, _ERRNO_EPERM)
