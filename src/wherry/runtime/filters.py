"""An OCI ``linux.seccomp`` object becomes a filter program."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from wherry.kernel import libc, seccomp
from wherry.kernel.seccomp import Condition, Rule

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
# Known to libseccomp, and of no machine that this runs on: a filter for those filters nothing here.
_FOREIGN = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        *("X32", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X"),
        *("PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB"),
    )
)
_ARGUMENTS = 6
OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "==",
}
ACTIONS = {
    "SCMP_ACT_ALLOW": seccomp.RET_ALLOW,
    "SCMP_ACT_KILL": seccomp.RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": seccomp.RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": seccomp.RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": seccomp.RET_TRAP,
    "SCMP_ACT_LOG": seccomp.RET_LOG,
    "SCMP_ACT_ERRNO": seccomp.RET_ERRNO,
    "SCMP_ACT_TRACE": seccomp.RET_TRACE,
}
# Arguments that the kernel takes as int or unsigned int: it never sees the high word, so neither may a comparison.
INT_ARGUMENTS = {
    "socket": (0, 1, 2),
    "socketpair": (0, 1, 2),
    "personality": (0,),
    "ioctl": (0, 1),
    "fcntl": (0, 1),
    "prctl": (0,),
    "setsockopt": (0, 1, 2, 4),
    "getsockopt": (0, 1, 2),
    "bpf": (0, 2),
    "keyctl": (0,),
    "open": (1, 2),
    "openat": (0, 2, 3),
    "setns": (0, 1),
    "kill": (0, 1),
    "tgkill": (0, 1, 2),
    "kcmp": (0, 1, 2),
    "syslog": (0, 2),
    "umount2": (1,),
    "reboot": (0, 1, 2),
    "seccomp": (0, 1),
    "memfd_create": (1,),
    "futex": (1, 2),
    "unshare": (0,),
    "clone": (0,),
}


class Compiler:
    """Compiles and remembers: containers of one capability set share one program."""

    def __init__(self) -> None:
        with open(os.path.join(os.path.dirname(__file__), "syscalls.json"), encoding="utf-8") as file:
            self._numbers: dict[str, dict[str, int]] = json.load(file)["tables"]
        self._programs: dict[bytes, int] = {}
        self._last: tuple[Mapping[str, Any], bytes] = ({}, b"")

    def open_program(self, profile: bytes) -> int:
        """A descriptor of the program of an OCI ``linux.seccomp`` object in JSON, kept by the compiler: to pass on, not to close.

        Raises ValueError for what it does not know.
        """
        if profile not in self._programs:
            if len(self._programs) >= 64:
                for fd in self._programs.values():
                    os.close(fd)
                self._programs.clear()
            program = self.program(json.loads(profile))
            fd = self._programs[profile] = os.memfd_create("filter", os.MFD_CLOEXEC)
            os.write(fd, program)
        return self._programs[profile]

    def remembered(self, profile: Mapping[str, Any]) -> bytes:
        """`program` of a profile that others may have had before; ``profile`` does not change any more."""
        if profile is not self._last[0]:
            self._last = profile, read_program(self.open_program(json.dumps(profile).encode()))
        return self._last[1]

    def descriptors(self) -> list[int]:
        """All that are kept."""
        return list(self._programs.values())

    def program(self, profile: Mapping[str, Any]) -> bytes:
        """The program as bytes.  Raises ValueError for what it does not know."""
        if profile.get("listenerPath"):
            raise ValueError("seccomp notify is not supported")
        default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
        named = [_architecture(one) for one in profile.get("architectures") or () if one not in _FOREIGN]
        native = "aarch64" if libc.MACHINE == "aarch64" else "x86_64"
        rules = {name: self._rules(profile, name) for name in dict.fromkeys([native, *named])}
        return seccomp.assemble(rules, default)

    def _rules(self, profile: Mapping[str, Any], architecture: str) -> dict[int, list[Rule]]:
        numbers = self._numbers[architecture]
        by_name: dict[str, list[Rule]] = {}
        for entry in profile.get("syscalls") or ():
            rules = [Rule(_action(entry["action"], entry.get("errnoRet")), conditions) for conditions in _alternatives(entry)]
            for name in entry["names"]:
                if name in numbers:
                    by_name.setdefault(name, []).extend(_narrow(name, rule) for rule in rules)
        decided = any(list(entry["names"]) == ["socketcall"] for entry in profile.get("syscalls") or ())
        if not decided and any(rule.conditions for rule in by_name.get("socket", ())) and "socketcall" in by_name:
            # socketcall takes its arguments by pointer: no filter can see the family that the rules for socket() forbid.
            # A profile with an entry for this call alone has decided that.
            by_name["socketcall"] = [Rule(seccomp.RET_ERRNO | 38)]
        return {numbers[name]: sorted(rules, key=lambda rule: not rule.conditions) for name, rules in by_name.items()}


def read_program(fd: int) -> bytes:
    """What `Compiler.open_program` opened, as bytes."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def split_profile(message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A launch's or an exec's message without its seccomp object, and that, None for none.

    It is most of a message, and only the zygote, which has compiled it before, looks at it.
    """
    if message.get("runtime"):
        return {**message, "has_program": False}, None  # the other runtime compiles it
    if message["op"] == "execute":
        rest, profile = {**message, "seccomp": None}, message["seccomp"]
    else:
        linux = message["config"].get("linux") or {}
        rest, profile = {**message, "config": {**message["config"], "linux": {**linux, "seccomp": None}}}, linux.get("seccomp")
    rest["has_program"] = bool(profile)
    return rest, profile or None


def _architecture(name: str) -> str:
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ValueError(f"seccomp architecture {name} is not supported") from None


def _action(name: str, errno_return: int | None) -> int:
    try:
        action = ACTIONS[name]
    except KeyError:
        raise ValueError(f"seccomp action {name} is not supported") from None
    if action in (seccomp.RET_ERRNO, seccomp.RET_TRACE):
        action |= (1 if errno_return is None else errno_return) & 0xFFFF
    return action


def _alternatives(entry: Mapping[str, Any]) -> list[tuple[Condition, ...]]:
    """Conditions on different arguments must all hold; several on one argument are alternatives, as runc reads them."""
    conditions = [_condition(one) for one in entry.get("args") or ()]
    if len({one.index for one in conditions}) < len(conditions):
        return [(one,) for one in conditions]
    return [tuple(conditions)]


def _condition(argument: Mapping[str, Any]) -> Condition:
    operator = argument["op"]
    if operator not in OPERATORS:
        raise ValueError(f"seccomp operator {operator} is not supported")
    if not 0 <= argument["index"] < _ARGUMENTS:
        raise ValueError(f"seccomp: a system call has no argument {argument['index']}: they are 0 to {_ARGUMENTS - 1}")
    value = argument["value"] & 0xFFFFFFFFFFFFFFFF
    if operator == "SCMP_CMP_MASKED_EQ":  # value is the mask, valueTwo what must remain
        return Condition(argument["index"], "==", argument.get("valueTwo", 0) & 0xFFFFFFFFFFFFFFFF, value)
    return Condition(argument["index"], OPERATORS[operator], value)


def _narrow(name: str, rule: Rule) -> Rule:
    ints = INT_ARGUMENTS.get(name, ())
    conditions = (
        Condition(one.index, one.operator, one.value, one.mask, low_word=one.index in ints and one.value >> 32 == 0)
        for one in rule.conditions
    )
    return Rule(rule.action, tuple(conditions))
