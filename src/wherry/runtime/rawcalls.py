"""A static program that makes system calls from a table and writes what they answered: an ELF file put together byte by byte.

Neither a library nor an interpreter stands between its numbers and the kernel, so it can ask what no ordinary program can: calls that do
not exist, arguments with bits no function passes on, and on x86-64 the entry of 32-bit programs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_BASE = 0x400000
_HEADERS = 64 + 56  # ELF header and one program header
_ROW = struct.Struct("<8Q")  # number, six arguments, the answer
_LEGACY = 1 << 62  # in a row's number: by int 0x80
_WORD = (1 << 64) - 1
LONGEST = 32 << 10  # bytes of a table and its data: a pipe takes them at once


class Sheet:
    """A table being written.  Texts and rooms lie in front of it at fixed addresses; ``call`` gives the row's number."""

    def __init__(self, machine: str, numbers: Mapping[str, int]) -> None:
        """``numbers``: system calls by name.  Raises KeyError for a machine type there is no code for."""
        self._e_machine, self._code, self._pointer = _MACHINES[machine]
        self._numbers = numbers
        self._legacy_entry = machine == "x86_64"
        self._start = _BASE + _HEADERS + len(self._code)
        self._data = bytearray()
        self._rows: list[tuple[int, ...]] = []
        self._legacy: list[tuple[int, ...]] = []

    def text(self, value: bytes) -> int:
        """The address of a string."""
        return self._place(value + b"\0")

    def room(self, size: int) -> int:
        """The address of ``size`` empty bytes."""
        return self._place(bytes(size))

    def _place(self, value: bytes) -> int:
        address = self._start + len(self._data)
        self._data += value
        return address

    def call(self, name: str | int, *arguments: int) -> int:
        """A call of this machine, by name or number."""
        self._rows.append(_row(self._numbers[name] if isinstance(name, str) else name, arguments))
        return len(self._rows) - 1

    def legacy_call(self, number: int, *arguments: int) -> int | None:
        """A call by the entry of 32-bit programs, which kills a program where the kernel has no such entry: these come last.

        Gives the number of the answer among them, None for a machine without.
        """
        if not self._legacy_entry:
            return None
        self._legacy.append(_row(number | _LEGACY, arguments))
        return len(self._legacy) - 1

    def program(self) -> bytes:
        """The executable: it makes the calls, writes data and table to descriptor 1, makes the legacy calls, writes all again, ends."""
        self._data += bytes(-len(self._data) % 8)
        rows = len(self._rows) + len(self._legacy) + 3
        total = len(self._data) + rows * _ROW.size
        if total > LONGEST:
            raise ValueError(f"{total} bytes of system calls")
        write = _row(self._numbers["write"], (1, self._start, total))
        table = [*self._rows, write, *self._legacy, write, _row(self._numbers["exit"], (0,))]
        address = struct.pack("<Q", self._start + len(self._data))
        code = self._code[: self._pointer] + address + self._code[self._pointer + len(address) :]
        body = code + self._data + b"".join(_ROW.pack(*row) for row in table)
        size = _HEADERS + len(body)
        header = struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, self._e_machine, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
        )
        return header + struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, 0x10000) + body

    def answers(self, output: bytes) -> Answers:
        """What a run wrote, understood.  Raises ValueError for anything else."""
        rows = len(self._rows) + len(self._legacy) + 3
        total = len(self._data) + rows * _ROW.size
        if len(output) not in (total, 2 * total):
            raise ValueError(f"the program wrote {len(output)} bytes, not {total}")
        last = output[-total:]
        found = [row[7] for row in _ROW.iter_unpack(last[len(self._data) :])]
        signed = [value - (1 << 64) if value >> 63 else value for value in found]
        count = len(self._rows)
        legacy = signed[count + 1 : count + 1 + len(self._legacy)] if len(output) == 2 * total else []
        return Answers(self._start, last[: len(self._data)], signed[:count], legacy)


class Answers:
    """``calls`` and ``legacy``: results in the order of the table, errors as negative numbers; ``legacy`` is empty if they killed it."""

    def __init__(self, start: int, data: bytes, calls: list[int], legacy: list[int]) -> None:
        self._start, self._data = start, data
        self.calls, self.legacy = calls, legacy

    def bytes(self, address: int, size: int) -> bytes:
        """What stands in a room."""
        return self._data[address - self._start : address - self._start + size]


def _row(number: int, arguments: tuple[int, ...]) -> tuple[int, ...]:
    return (number, *(one & _WORD for one in arguments), *(0 for _ in range(6 - len(arguments))), 0)


# movabs r12, TABLE; then for each row: load it, make the call, store the answer, next
_X86_64 = bytes.fromhex(
    "49bc 0000000000000000"  # movabs r12, TABLE
    "498b0424 480fbaf03e 722b"  # row: mov rax, [r12]; btr rax, 62; jc legacy
    "498b7c2408 498b742410 498b542418"  # mov rdi, [r12+8]; rsi; rdx
    "4d8b542420 4d8b442428 4d8b4c2430"  # r10; r8; r9
    "0f05 4989442438 4983c440 ebca"  # syscall; store: mov [r12+56], rax; add r12, 64; jmp row
    "418b5c2408 418b4c2410 418b542418"  # legacy: mov ebx, [r12+8]; ecx; edx
    "418b742420 418b7c2428 418b6c2430"  # esi; edi; ebp
    "cd80 4898 ebd1"  # int 0x80; cdqe; jmp store
)
_LDR, _STR, _SVC, _ADD, _B, _LDR_LITERAL = 0xF9400000, 0xF9000000, 0xD4000001, 0x91000000, 0x14000000, 0x58000000


def _aarch64() -> bytes:
    """The same: ldr x19, =TABLE; x8 is the number, x0 to x5 the arguments.  The address stands behind the code."""
    loads = [_LDR | 19 << 5 | 8, *(_LDR | (1 + index) << 10 | 19 << 5 | index for index in range(6))]
    loop = [*loads, _SVC, _STR | 7 << 10 | 19 << 5, _ADD | 64 << 10 | 19 << 5 | 19]
    words = [_LDR_LITERAL | (len(loop) + 2) << 5 | 19, *loop, _B | -len(loop) & 0x3FFFFFF]
    return struct.pack(f"<{len(words)}I8x", *words)


# e_machine (include/uapi/linux/elf-em.h), the code, and where in it the address of the table goes
_MACHINES = {"x86_64": (62, _X86_64, 2), "aarch64": (183, _aarch64(), len(_aarch64()) - 8)}
MACHINES = tuple(_MACHINES)
