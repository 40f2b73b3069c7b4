"""The system calls of a process that has no interpreter, written into the table that it follows."""

from __future__ import annotations

import os
import resource
import signal
import struct
from collections.abc import Sequence

from wherry.kernel import cgroup, credentials, process, scheduling, seccomp, spawn
from wherry.runtime.calls import LIMIT

_DEFAULT_ACTION = bytes(32)  # the kernel's struct sigaction: SIG_DFL
_NO_LIMIT = (1 << 64) - 1


class Written:
    """`wherry.runtime.calls.Calls` for a process with the capabilities and the bounding set that the writer has."""

    def __init__(self, table: spawn.Table, defaults: spawn.Table, permitted: int, bounding: Sequence[int]) -> None:
        """``defaults``: see `default_actions`."""
        self._table = table
        self._defaults = defaults
        self._permitted = permitted
        self._bounding = bounding

    def join_session_keyring(self) -> None:
        self._table.add("keyctl", process.KEYCTL_JOIN_SESSION_KEYRING, process.SESSION_KEYRING + b"\0", optional=True)

    def join_cgroup(self, groups: cgroup.Hierarchies, path: str) -> None:
        for directory in groups.directories(path):
            tasks = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
            self._table.add("write", tasks, b"0", 1, what=f"join cgroup {path}")

    def unshare(self, kinds: int) -> None:
        self._table.add("unshare", kinds)

    def setsid(self) -> None:
        self._table.add("setsid")

    def dup2(self, fd: int, number: int) -> None:
        if fd != number:
            self._table.add("dup3", fd, number, 0)

    def fchown(self, fd: int, uid: int) -> None:
        self._table.add("fchown", fd, uid, -1, optional=True)

    def enter_this_directory(self) -> None:
        self._table.add("fchdir", os.open(".", os.O_PATH | os.O_CLOEXEC))

    def prlimit(self, kind: str, soft: int, hard: int, *, exact: bool) -> None:
        assert exact
        values = (_NO_LIMIT if value >= 1 << 63 else value for value in (soft, hard))
        number: int = getattr(resource, kind)
        self._table.add("prlimit64", 0, number, struct.pack("<2Q", *values), 0, what=f"{LIMIT} {kind}")

    def umask(self, mask: int) -> None:
        self._table.add("umask", mask)

    def close_on_exec(self, first: int) -> None:
        self._table.add("close_range", first, 0xFFFFFFFF, process.CLOSE_RANGE_CLOEXEC)

    def use_every_cpu(self) -> None:
        self._table.add("sched_setaffinity", 0, len(scheduling.EVERY_CPU), scheduling.EVERY_CPU)

    def default_signals(self) -> None:
        self._table.extend(self._defaults)

    def prctl(self, option: int, argument: int = 0, second: int = 0) -> None:
        self._table.add("prctl", option, argument, second, 0, 0)

    def drop_bounding(self, keep: int) -> None:
        for number in self._bounding:
            if not keep >> number & 1:
                self.prctl(credentials.PR_CAPBSET_DROP, number)

    def setgroups(self, groups: Sequence[int]) -> None:
        self._table.add("setgroups", len(groups), struct.pack(f"<{len(groups)}I", *groups))

    def setresgid(self, gid: int) -> None:
        self._table.add("setresgid", gid, gid, gid)

    def setresuid(self, uid: int) -> None:
        self._table.add("setresuid", uid, uid, uid)

    def permitted(self) -> int:
        return self._permitted

    def capset(self, *, effective: int, permitted: int, inheritable: int) -> None:
        self._table.add("capset", *credentials.encoded(effective=effective, permitted=permitted, inheritable=inheritable))

    def raise_ambient(self, bits: int) -> None:
        for number in credentials.numbers(bits):
            self.prctl(credentials.PR_CAP_AMBIENT, credentials.PR_CAP_AMBIENT_RAISE, number)

    def seccomp(self, program: bytes, flags: int) -> None:
        pointer = struct.pack("<H6xQ", len(program) // 8, self._table.keep(program))  # struct sock_fprog
        self._table.add("seccomp", seccomp.SET_MODE_FILTER, flags, pointer)


def default_actions() -> spawn.Table:
    """Of all signals, to be written again and again."""
    table = spawn.Table()
    for number in range(1, signal.NSIG):
        table.add("rt_sigaction", number, _DEFAULT_ACTION, 0, 8, optional=True)
    return table
