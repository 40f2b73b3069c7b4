"""Assemble and load a seccomp filter: classic BPF, without libseccomp.

Input is a list of rules by architecture, in terms of numbers; what names and conditions mean is `runtime`'s affair.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wherry.kernel import libc

# include/uapi/linux/audit.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
# include/uapi/linux/seccomp.h
RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000
_ACTION = 0xFFFF0000  # the rest is an error number or a tracer's message
_PERMISSIVE = frozenset({RET_ALLOW, RET_LOG, RET_TRACE})
SET_MODE_FILTER = 1
_X32_BIT = 0x40000000
_ENOSYS = 38
# include/uapi/linux/bpf_common.h: load word, and the jumps
_LD_ABS, _ALU_AND, _RET, _JA, _JEQ, _JGT, _JGE = 0x20, 0x54, 0x06, 0x05, 0x15, 0x25, 0x35
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k


@dataclass(frozen=True, slots=True)
class Condition:
    """``argument[index] & mask  OP  value``; ``operator``: == != < <= > >=; ``low_word``: the kernel takes this argument as an int."""

    index: int
    operator: str
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF
    low_word: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """``action`` when all ``conditions`` hold."""

    action: int
    conditions: tuple[Condition, ...] = ()


def assemble(rules: Mapping[str, Mapping[int, Sequence[Rule]]], default: int) -> bytes:
    """The filter program as ``struct sock_filter[]``.

    ``rules``: architecture -> system call number -> rules, of which the first that matches decides. A number above the highest one
    named is answered ENOSYS (programs probe for new calls) unless the default lets calls through, x32 numbers too, an architecture not
    named kills.
    Raises ValueError when the kernel's limit of 4096 instructions is passed.
    """
    program: list[Instruction] = [(_LD_ABS, 0, 0, _ARCH)]
    for name, by_number in rules.items():
        block = _architecture(name, by_number, default)
        program += [(_JEQ, 1, 0, AUDIT_ARCH[name]), (_JA, 0, 0, len(block)), *block]
    program.append((_RET, 0, 0, RET_KILL_PROCESS))
    if len(program) > 4096:
        raise ValueError("the seccomp filter is larger than the kernel takes")
    return b"".join(struct.pack("=HBBI", *one) for one in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_seccomp = libc.bind_syscall("seccomp", ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(_Program))


def load(program: bytes, flags: int = 0) -> None:
    """Filter this process from now on; needs CAP_SYS_ADMIN or no_new_privs.  Source: seccomp(2)."""
    libc.check(_seccomp(SET_MODE_FILTER, flags, _Program(len(program) // 8, program)), "seccomp")


def _architecture(name: str, by_number: Mapping[int, Sequence[Rule]], default: int) -> list[Instruction]:
    highest = max(by_number, default=-1)
    enosys = RET_ERRNO | _ENOSYS
    start: list[Instruction] = [(_LD_ABS, 0, 0, _NR)]
    if name == "x86_64":
        start += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, enosys)]
    if highest >= 0 and default & _ACTION not in _PERMISSIVE:
        start += [(_JGT, 0, 1, highest), (_RET, 0, 0, enosys)]
    leaves: list[tuple[int, list[Instruction]]] = []
    for number in range(highest + 2) if highest < 0xF0000 else sorted({0, *by_number, *(one + 1 for one in by_number)}):
        body = _rules(by_number.get(number, ()), default)
        if not leaves or leaves[-1][1] != body:
            leaves.append((number, body))
    return start + (_search(leaves) if leaves else [(_RET, 0, 0, default)])


def _search(leaves: Sequence[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Binary search over ranges: each leaf holds from its number up to the next one's."""
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    below, above = _search(leaves[:middle]), _search(leaves[middle:])
    if len(below) < 256:
        return [(_JGE, len(below), 0, leaves[middle][0]), *below, *above]
    return [(_JGE, 0, 1, leaves[middle][0]), (_JA, 0, 0, len(below)), *below, *above]


def _rules(rules: Sequence[Rule], default: int) -> list[Instruction]:
    program: list[Instruction] = []
    for rule in rules:
        tests: list[Instruction] = []
        for condition in reversed(rule.conditions):
            tests = _test(condition) + tests
        # every failing test jumps to just behind this rule's return
        length = len(tests)
        program += [_resolve(one, position, length) for position, one in enumerate(tests)]
        program.append((_RET, 0, 0, rule.action))
        if not rule.conditions:
            return program
    return [*program, (_RET, 0, 0, default)]


_FAIL = -1


def _test(condition: Condition) -> list[Instruction]:
    """Instructions that fall through to the next test when the condition holds; jumps to _FAIL are resolved by the caller."""
    low, high = condition.value & 0xFFFFFFFF, condition.value >> 32
    mask_low, mask_high = condition.mask & 0xFFFFFFFF, condition.mask >> 32
    offset = _ARGS + 8 * condition.index
    load_low = [(_LD_ABS, 0, 0, offset), *([(_ALU_AND, 0, 0, mask_low)] if mask_low != 0xFFFFFFFF else [])]
    load_high = [(_LD_ABS, 0, 0, offset + 4), *([(_ALU_AND, 0, 0, mask_high)] if mask_high != 0xFFFFFFFF else [])]
    final: dict[str, Instruction] = {
        "==": (_JEQ, 0, _FAIL, low),
        "!=": (_JEQ, _FAIL, 0, low),
        ">": (_JGT, 0, _FAIL, low),
        ">=": (_JGE, 0, _FAIL, low),
        "<": (_JGE, _FAIL, 0, low),
        "<=": (_JGT, _FAIL, 0, low),
    }
    tail: list[Instruction] = [*load_low, final[condition.operator]]
    if condition.low_word:
        return tail
    passed = len(tail)  # from a test of the high word over the rest of this condition
    head: dict[str, list[Instruction]] = {
        "==": [(_JEQ, 0, _FAIL, high)],
        "!=": [(_JEQ, 0, passed, high)],
        ">": [(_JGT, passed + 1, 0, high), (_JEQ, 0, _FAIL, high)],
        ">=": [(_JGT, passed + 1, 0, high), (_JEQ, 0, _FAIL, high)],
        "<": [(_JGT, _FAIL, 0, high), (_JEQ, 0, passed, high)],
        "<=": [(_JGT, _FAIL, 0, high), (_JEQ, 0, passed, high)],
    }
    return [*load_high, *head[condition.operator], *tail]


def _resolve(instruction: Instruction, position: int, length: int) -> Instruction:
    """Turn _FAIL into the distance to behind the rule's return, which stands at ``length``."""
    code, true, false, k = instruction
    distance = length - position
    return code, distance if true == _FAIL else true, distance if false == _FAIL else false, k
