"""Device rules on cgroup v2: an eBPF program that answers each open and mknod in the group.

The rules are those of the v1 devices controller: the last one that matches decides, and what none names is refused.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from wherry.kernel import libc

# include/uapi/linux/bpf.h
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI = 2
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERY_ACCESS = 7
_BPF = {"x86_64": 321, "aarch64": 280}.get(libc.MACHINE, 0xFFFF)
# Load a word, move or compute on 32 bits, jump.  Source: Documentation/bpf/standardization/instruction-set.rst
_LDX_W, _MOV32_K, _MOV32_X, _AND32_K, _RSH32_K, _JEQ_K, _JNE_K, _JNE_X, _EXIT = 0x61, 0xB4, 0xBC, 0x54, 0x74, 0x15, 0x55, 0x5D, 0x95

_syscall = libc.bind("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, result=ctypes.c_long)


def assemble(rules: Iterable[Mapping[str, Any]]) -> bytes:
    """The program for OCI ``linux.resources.devices``.  Registers 2 to 5: kind, access, major, minor of the device asked for."""
    code = [
        _instruction(_LDX_W, 2, 1, 0),
        _instruction(_MOV32_X, 3, 2),
        _instruction(_RSH32_K, 3, value=16),
        _instruction(_AND32_K, 2, value=0xFFFF),
        _instruction(_LDX_W, 4, 1, 4),
        _instruction(_LDX_W, 5, 1, 8),
    ]
    for rule in reversed(list(rules)):
        code += _rule(rule)
        if _names_everything(rule):
            return b"".join(code)
    return b"".join([*code, *_answer(allow=False)])


def attach(directory: str, program: bytes) -> None:
    """Load the program and put it on the group in place of what was there; it stays as long as the group does.  Source: bpf(2)."""
    licence = ctypes.create_string_buffer(b"Apache")
    instructions = ctypes.create_string_buffer(program, len(program))
    load = struct.pack(
        "=IIQQIIQII", _TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0
    ).ljust(128, b"\0")
    program_fd = _command(_PROG_LOAD, load)
    try:
        group_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            before = _attached(group_fd)
            _command(_PROG_ATTACH, struct.pack("=IIII", group_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
            for ident in before:  # each program of a group can only forbid: an older one would outlive the permission
                _detach(group_fd, ident)
        finally:
            os.close(group_fd)
    finally:
        os.close(program_fd)


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def _answer(*, allow: bool) -> list[bytes]:
    return [_instruction(_MOV32_K, 0, value=int(allow)), _instruction(_EXIT)]


def _command(number: int, attributes: bytes) -> int:
    padded = attributes.ljust(128, b"\0")
    return libc.check(_syscall(_BPF, number, padded, len(padded)), "bpf")


def _attached(group_fd: int) -> list[int]:
    """Ids of the device programs on the group itself."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIIIQI", group_fd, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids)).ljust(128, b"\0"), 128
    )
    libc.check(_syscall(_BPF, _PROG_QUERY, ctypes.cast(attributes, ctypes.c_char_p), len(attributes)), "bpf")
    return list(ids[: struct.unpack_from("=I", attributes.raw, 24)[0]])


def _detach(group_fd: int, ident: int) -> None:
    program_fd = _command(_PROG_GET_FD_BY_ID, struct.pack("=I", ident))
    try:
        _command(_PROG_DETACH, struct.pack("=III", group_fd, program_fd, _ATTACH_CGROUP_DEVICE))
    finally:
        os.close(program_fd)


def _numbers(rule: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(register, number) of what the rule says about the device."""
    return [(register, rule[key]) for register, key in ((4, "major"), (5, "minor")) if rule.get(key) is not None and rule[key] >= 0]


def _access(rule: Mapping[str, Any]) -> int:
    wanted = set(rule.get("access") or "rwm")
    if not wanted <= set(_ACCESS):
        raise ValueError(f"device rule: access {rule['access']} is not made of r, w and m")
    return sum(_ACCESS[one] for one in wanted)


def _names_everything(rule: Mapping[str, Any]) -> bool:
    return (rule.get("type") or "a") == "a"


def _rule(rule: Mapping[str, Any]) -> list[bytes]:
    """Tests that skip the answer when one fails; a type "a" rule has none, as on v1."""
    tests: list[bytes] = []
    answer = _answer(allow=bool(rule.get("allow")))
    if _names_everything(rule):
        return answer
    if rule["type"] not in _KINDS:
        raise ValueError(f"device rule: {rule['type']} is not a type of device")
    parts: list[list[bytes]] = [[_instruction(_JNE_K, 2, value=_KINDS[rule["type"]])]]
    if (access := _access(rule)) != _EVERY_ACCESS:
        # allowed: all that is asked for must be in the rule; refused: any of it
        prepare = [_instruction(_MOV32_X, 1, 3), _instruction(_AND32_K, 1, value=access)]
        if rule.get("allow"):
            parts.append([*prepare, _instruction(_JNE_X, 1, 3)])
        else:
            parts.append([*prepare, _instruction(_JEQ_K, 1, value=0)])
    parts += [[_instruction(_JNE_K, register, value=number)] for register, number in _numbers(rule)]
    total = sum(map(len, parts)) + len(answer)
    for part in parts:
        for one in part:
            code, registers, offset, value = struct.unpack("=BBhi", one)
            if code in (_JEQ_K, _JNE_K, _JNE_X):
                offset = total - len(tests) - 1
            tests.append(struct.pack("=BBhi", code, registers, offset, value))
    return [*tests, *answer]
