"""A process that shares our memory until it executes its program: nothing is copied for it, and nothing of ours is copied afterwards.

A fork of an interpreter copies its page tables, and then each page that either side writes to. This process has neither stack nor
interpreter: it makes the system calls of a table, which its parent has written down, and the last of them is execve.  Source: clone(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import struct
from collections.abc import Callable

from wherry.kernel import libc, namespace, process

_ROW = struct.Struct("<8Q")  # number, six arguments, the answer
_UNANSWERED = 1 << 63
_OPTIONAL = 1 << 62  # in a row's number: what becomes of it does not matter
_WORD = (1 << 64) - 1
_CLONE_VM = 0x100  # include/uapi/linux/sched.h
_MOST_ROWS = 1000
_STAT_BYTES = 144
_AT_FDCWD = -100
_PAGE = 4096
_PROT_READ_EXEC = 5
_NUMBERS = {  # arch/x86/entry/syscalls/syscall_64.tbl
    **libc.SYSCALLS,
    **{"read": 0, "write": 1, "close": 3, "poll": 7, "rt_sigprocmask": 14, "execve": 59, "fchdir": 81, "fchown": 93, "umask": 95},
    **{"setsid": 112, "setgroups": 116, "setresuid": 117, "setresgid": 119, "capset": 126, "prctl": 157, "exit_group": 231},
    **{"newfstatat": 262, "unshare": 272, "dup3": 292, "prlimit64": 302, "setns": 308, "sched_setaffinity": 203},
}
# long clone_and_go(struct clone_args *rdi, size_t rsi, struct row *rdx)
_CODE = bytes.fromhex(
    "4154 4989d4 b8b3010000 0f05"  # push r12; mov r12, rdx; mov eax, 435 (clone3); syscall
    "4885c0 7403 415c c3"  # test rax, rax; jz row; pop r12; ret
    "498b0424 480fbaf03e 4d19ed"  # row: mov rax, [r12]; btr rax, 62; sbb r13, r13
    "498b7c2408 498b742410 498b542418"  # mov rdi, [r12+8]; rsi; rdx
    "4d8b542420 4d8b442428 4d8b4c2430"  # r10; r8; r9
    "0f05 4989442438 4983c440"  # syscall; mov [r12+56], rax; add r12, 64
    "4d85ed 75c6"  # test r13, r13; jnz row
    "483d00f0ffff 76be"  # cmp rax, -4096; jbe row
    "bfff000000 b8e7000000 0f05"  # mov edi, 255; mov eax, 231 (exit_group); syscall
)
_clone_args = struct.Struct("<11Q")
_mprotect = libc.bind("mprotect", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Refused(OSError):
    """The kernel refused a call of the table; ``what`` is what `Table.add` was told of it."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, os.strerror(number))
        self.what = what


class Table:
    """System calls to be made, in their order.  It keeps what they point to, and must be kept until they are made."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._names: list[str] = []
        self._kept: list[object] = []

    def add(self, call: str, *arguments: int | bytes, what: str = "", optional: bool = False) -> None:
        """``arguments``: numbers, and bytes for their address.  A call that fails ends the process, unless it is ``optional``."""
        words = [one & _WORD if isinstance(one, int) else self.keep(one) for one in arguments]
        self._rows += _ROW.pack(_NUMBERS[call] | (_OPTIONAL if optional else 0), *words, *(0,) * (6 - len(words)), _UNANSWERED)
        self._names.append(what or call)

    def keep(self, data: bytes) -> int:
        """The address of a copy of ``data``."""
        buffer = ctypes.create_string_buffer(data, max(len(data), 1))
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def room(self, size: int) -> ctypes.Array[ctypes.c_char]:
        """Room for what a call writes."""
        buffer = ctypes.create_string_buffer(size)
        self._kept.append(buffer)
        return buffer

    def strings(self, texts: list[bytes]) -> int:
        """The address of an array of strings, as execve takes it."""
        return self.keep(struct.pack(f"<{len(texts) + 1}Q", *(self.keep(text + b"\0") for text in texts), 0))

    def extend(self, other: Table) -> None:
        """Add the calls of another table, which must be kept too."""
        self._rows += other._rows
        self._names += other._names

    @property
    def rows(self) -> bytes:
        return bytes(self._rows)

    @property
    def names(self) -> list[str]:
        return self._names


class Spawner:
    """The few instructions in memory.  Raises OSError where that may not be: another machine, or no memory that can be executed."""

    def __init__(self) -> None:
        if libc.MACHINE != "x86_64":
            raise OSError(errno.ENOSYS, f"no instructions for {libc.MACHINE}")
        self._area = mmap.mmap(-1, 2 * _PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._area[: len(_CODE)] = _CODE
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        libc.check(_mprotect(self._address, _PAGE, _PROT_READ_EXEC), "mprotect")
        # a function that keeps the interpreter's lock: it returns in no time
        self._go = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)(self._address)

    def spawn(self, flags: int) -> Spawned:
        """A process in the new namespaces ``flags``, which waits to be told what to do.

        It has our descriptors, the very same, until `Spawned.detach`, and copies of our signal handlers. All signals must be blocked.
        """
        return Spawned(self._clone, flags)

    def _clone(self, flags: int, table: int) -> tuple[int, int]:
        pidfd = ctypes.c_int(-1)
        arguments = _clone_args.pack(
            *(flags | _CLONE_VM | process.CLONE_FILES | process.CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD),
            *(self._address + _PAGE, _PAGE, 0, 0, 0, 0),  # it pushes nothing onto its stack
        )
        pid = self._go(arguments, len(arguments), table)
        if pid < 0:
            raise OSError(-pid, f"clone3: {os.strerror(-pid)}")
        return pid, pidfd.value


class Spawned:
    """``pid`` and ``pidfd`` of the process, whose descriptor and end are the caller's to care for.

    It does the calls of one table after the other, and waits in between, for a byte in a pipe or for our end. What comes after the byte is
    its end, until the next table is written there. So it ends with us, until it executes its program.
    """

    def __init__(self, clone: Callable[[int, int], tuple[int, int]], flags: int) -> None:
        self._memory = ctypes.create_string_buffer(_MOST_ROWS * _ROW.size)
        self._names: list[str] = []
        self._kept: list[Table] = []
        self._gate_end, self._gate = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._report, self._report_end = os.pipe2(os.O_CLOEXEC)
        self._self = os.pidfd_open(os.getpid())
        self._write(Table(), self._waiting())
        try:
            self.pid, self.pidfd = clone(flags, ctypes.addressof(self._memory))
        except BaseException:
            self.close()
            raise

    def perform(self, table: Table) -> None:
        """Let it make these calls, and wait until it has.  Raises Refused for one that failed, which has ended it."""
        table.add("write", self._report_end, b"+", 1)
        self._go_on(table, self._waiting())
        self._await()

    def detach(self, namespace_fd: int, table: Table) -> tuple[int, int]:
        """Let it enter a mount namespace, whose root becomes its root and directory, and then have descriptors of its own, copies of ours.

        It begins with the calls of ``table``; that is not waited for.  Returns device and inode of its root: nothing else would tell that
        it has left ours.  Raises Refused when it ended before.
        """
        own = Table()
        own.add("setns", namespace_fd, namespace.CLONE_NEWNS)
        root = own.room(_STAT_BYTES)
        own.add("newfstatat", _AT_FDCWD, b"/\0", ctypes.addressof(root), 0)
        own.add("unshare", process.CLONE_FILES)
        own.add("write", self._report_end, b"+", 1)
        own.extend(table)
        self._go_on(own, self._waiting())
        self._await()
        self._kept.append(table)
        os.close(self._report_end)
        self._report_end = -1
        device, inode = struct.unpack_from("<2Q", root)  # struct stat begins with them
        return device, inode

    def release(self, table: Table) -> None:
        """These are the last calls, up to execve. Returns when the program is executing.  Raises Refused for a call that failed."""
        end = Table()
        end.add("exit_group", 255)
        try:
            self._go_on(table, end)
            os.read(self._report, 1)  # which it closes by execve, or by its end
        finally:
            self.close()
        self._check()

    def descriptors(self) -> set[int]:
        """Those of ours that are open until it is released or closed."""
        return {fd for fd in (self._gate, self._gate_end, self._report, self._report_end, self._self) if fd >= 0}

    def close(self) -> None:
        """It is of no use any more, unless it was released: its end is the caller's to bring about."""
        for fd in self.descriptors():
            os.close(fd)
        self._gate = self._gate_end = self._report = self._report_end = self._self = -1

    def _waiting(self) -> Table:
        table = Table()
        waited_for = struct.pack("<ihhihh", self._gate_end, select.POLLIN, 0, self._self, select.POLLIN, 0)  # struct pollfd[2]
        table.add("poll", waited_for, 2, -1)
        table.add("read", self._gate_end, bytes(1), 1)  # fails when it is our end that was seen
        table.add("exit_group", 255)
        return table

    def _go_on(self, table: Table, end: Table) -> None:
        self._write(table, end)
        os.write(self._gate, b"+")

    def _write(self, table: Table, end: Table) -> None:
        """Put calls where the process goes on: over the end that it has reached."""
        rows = table.rows + end.rows
        begin = len(self._names) * _ROW.size
        if begin + len(rows) > len(self._memory):
            raise OSError(errno.E2BIG, "too many system calls for a process")
        ctypes.memmove(ctypes.addressof(self._memory) + begin, rows, len(rows))
        self._names += table.names + end.names[:-1]  # the next calls take the place of its last
        self._kept += [table, end]

    def _await(self) -> None:
        """Raises Refused when the process ends before it says that it is done."""
        waiting = select.poll()
        waiting.register(self._report, select.POLLIN)
        waiting.register(self.pidfd, select.POLLIN)
        if self._report in dict(waiting.poll()):
            os.read(self._report, 1)
            return
        self._check()
        raise Refused(errno.ESRCH, "the container's first process was ended")

    def _check(self) -> None:
        for row, name in zip(_ROW.iter_unpack(self._memory.raw), self._names, strict=False):
            answer = row[7] - (1 << 64) if row[7] >> 63 else row[7]
            if row[7] != _UNANSWERED and answer < 0 and not row[0] & _OPTIONAL:
                raise Refused(-answer, name)
