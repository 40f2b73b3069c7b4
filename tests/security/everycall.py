"""A static program that tries system calls one by one, each in a process of its own, and writes how each ended: x86-64 only.

A call may stop, kill or confuse its process; the next one does not notice. Arguments are all zero unless a call says otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_BASE = 0x400000
_HEADERS = 64 + 56
_ROW = struct.Struct("<8Q")  # number, six arguments, the wait status
LEGACY = 1 << 62  # in a number: by the entry of 32-bit programs, int 0x80


def program(calls: Sequence[tuple[int, ...]]) -> bytes:
    """The executable: it writes one row of eight 64-bit words for each call, the last of them the wait status of its process."""
    first = _BASE + _HEADERS + len(_code(0, 0, 0))
    end = first + len(calls) * _ROW.size
    table = b"".join(_ROW.pack(*call, *(0,) * (8 - len(call))) for call in calls)
    body = _code(first, end, end - first) + table + struct.pack("<4Q", 0, 0, 0, 20_000)  # struct itimerval: 20 ms, once
    size = _HEADERS + len(body)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, 0x10000) + body


def results(output: bytes) -> list[int]:
    """For each call its errno, 0 where it reached the kernel's code and did something else than fail, -N where a signal ended it."""
    found = []
    for row in _ROW.iter_unpack(output):
        status = row[7] & 0xFFFFFFFF
        found.append(status >> 8 & 0xFF if not status & 0x7F else -(status & 0x7F))
    return found


def _code(first: int, end: int, length: int) -> bytes:
    parts = [
        b"\x49\xbc" + struct.pack("<Q", first),  # movabs r12, first
        b"\x49\xbd" + struct.pack("<Q", end),  # movabs r13, end
    ]
    parent = (
        b"\x89\xc7"  # mov edi, eax
        b"\x49\x8d\x74\x24\x38"  # lea rsi, [r12+56]
        b"\x31\xd2\x4d\x31\xd2"  # xor edx, edx; xor r10, r10
        b"\xb8\x3d\0\0\0\x0f\x05"  # wait4
        b"\x49\x83\xc4\x40"  # add r12, 64
        b"\x4d\x39\xec"  # cmp r12, r13
    )
    finish = (
        b"\xb8\x01\0\0\0\xbf\x01\0\0\0"  # write(1,
        b"\x48\xbe" + struct.pack("<Q", first) + b"\xba" + struct.pack("<I", length) + b"\x0f\x05"  # first, length)
        b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"  # exit(0)
    )
    fork = b"\xb8\x39\0\0\0\x0f\x05\x85\xc0"  # fork; test eax, eax
    to_child = b"\x0f\x84" + struct.pack("<i", len(parent) + 6 + len(finish))
    back = b"\x0f\x85" + struct.pack("<i", -(len(fork) + len(to_child) + len(parent) + 6))
    load = (
        b"\xb8\x26\0\0\0\x31\xff\x4c\x89\xee\x31\xd2\x0f\x05"  # setitimer(ITIMER_REAL, r13, 0)
        b"\x49\x8b\x04\x24"  # mov rax, [r12]
        b"\x48\x0f\xba\xf0\x3e"  # btr rax, 62
    )
    native = (
        b"\x49\x8b\x7c\x24\x08\x49\x8b\x74\x24\x10\x49\x8b\x54\x24\x18"  # rdi, rsi, rdx
        b"\x4d\x8b\x54\x24\x20\x4d\x8b\x44\x24\x28\x4d\x8b\x4c\x24\x30"  # r10, r8, r9
        b"\x0f\x05"
    )
    legacy = (
        b"\x41\x8b\x5c\x24\x08\x41\x8b\x4c\x24\x10\x41\x8b\x54\x24\x18"  # ebx, ecx, edx
        b"\x41\x8b\x74\x24\x20\x41\x8b\x7c\x24\x28\x41\x8b\x6c\x24\x30"  # esi, edi, ebp
        b"\xcd\x80\x48\x98"  # int 0x80; cdqe
    )
    choose = b"\x72" + bytes([len(native) + 2])  # jc legacy
    over = b"\xeb" + bytes([len(legacy)])  # jmp end of child
    ending = (
        b"\x48\xf7\xd8"  # neg rax
        b"\x31\xff"  # xor edi, edi
        b"\x48\x3d\xff\x0f\0\0"  # cmp rax, 4095
        b"\x77\x02"  # ja +2: no error
        b"\x89\xc7"  # mov edi, eax
        b"\xb8\x3c\0\0\0\x0f\x05"  # exit(edi)
    )
    return b"".join([*parts, fork, to_child, parent, back, finish, load, choose, native, over, legacy, ending])
