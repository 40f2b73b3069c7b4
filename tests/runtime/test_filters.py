"""The default profile as a program."""

from __future__ import annotations

import json
import operator
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import forked
from tests.kernel.test_seccomp import interpret

from wherry.kernel import credentials, seccomp
from wherry.runtime import defaults
from wherry.runtime.filters import INT_ARGUMENTS, Compiler, split_profile

ALLOW, EPERM, ENOSYS = seccomp.RET_ALLOW, seccomp.RET_ERRNO | 1, seccomp.RET_ERRNO | 38
TEMPLATE = defaults.load_seccomp_template()


def program(capabilities=defaults.CAPABILITIES) -> bytes:
    return Compiler().program(defaults.resolve_seccomp(TEMPLATE, capabilities, architecture="amd64", kernel="6.18.0"))


@pytest.mark.parametrize(
    ("number", "arguments", "answer"),
    [
        (41, (2,), ALLOW),  # socket(AF_INET)
        (41, (40,), EPERM),  # AF_VSOCK
        (41, (38,), EPERM),  # AF_ALG
        (41, (1 << 32 | 40,), EPERM),  # the kernel sees 40
        (41, (1 << 32 | 38,), EPERM),
        (56, (0x11,), ALLOW),  # clone(SIGCHLD)
        (56, (0x10000011,), EPERM),  # CLONE_NEWUSER
        (435, (), ENOSYS),  # clone3
        (272, (0x10000000,), EPERM),  # unshare
        (165, (), EPERM),  # mount
        (135, (0xFFFFFFFF,), ALLOW),  # personality
        (135, (0x1,), EPERM),
        (470, (), ENOSYS),
        (9999, (), ENOSYS),
        (0x40000029, (2,), ENOSYS),  # x32 socket
    ],
)
def test_default_profile_answers(number, arguments, answer):
    assert interpret(program(), number, (*arguments, *(0,) * (6 - len(arguments)))) == answer


def test_socketcall_is_no_way_around_the_socket_rules():
    i386 = seccomp.AUDIT_ARCH["i386"]
    assert interpret(program(), 102, arch=i386) == ENOSYS
    assert interpret(program(), 359, (40, 0, 0, 0, 0, 0), arch=i386) == EPERM
    assert interpret(program(), 4, arch=i386) == ALLOW


def test_a_profile_with_an_entry_for_socketcall_alone_has_decided_it():
    i386 = seccomp.AUDIT_ARCH["i386"]
    profile = defaults.default_seccomp(defaults.CAPABILITIES)
    for allowed, answer in ((True, ALLOW), (False, ENOSYS)):
        decided = Compiler().program(defaults.decide_socketcall(profile, allowed=allowed))
        assert interpret(decided, 102, arch=i386) == answer
        assert interpret(decided, 359, (40, 0, 0, 0, 0, 0), arch=i386) == EPERM
    assert interpret(Compiler().program(profile), 425) == ENOSYS  # io_uring_setup


def test_capabilities_open_what_they_stand_for():
    everything = program(credentials.NAMES)
    assert [interpret(everything, number) for number in (165, 272, 435)] == [ALLOW] * 3
    without_chroot = program([name for name in defaults.CAPABILITIES if name != "CAP_SYS_CHROOT"])
    assert (interpret(program(), 161), interpret(without_chroot, 161)) == (ALLOW, EPERM)


def test_old_kernel_may_not_ptrace():
    old = Compiler().program(defaults.resolve_seccomp(TEMPLATE, defaults.CAPABILITIES, architecture="amd64", kernel="4.4.0-x"))
    assert (interpret(program(), 101), interpret(old, 101)) == (ALLOW, EPERM)


def test_what_is_not_supported_is_said():
    with pytest.raises(ValueError, match="SCMP_ACT_NOTIFY is not supported"):
        Compiler().program({"defaultAction": "SCMP_ACT_NOTIFY"})


@pytest.mark.root
def test_the_kernel_takes_the_program():
    if os.getuid() != 0:
        pytest.skip("needs root")
    data = program()

    def confine() -> None:
        seccomp.load(data)
        os.chroot("/")

    assert forked.exit_code(confine) == 0


def test_a_profile_travels_apart_from_its_message_which_stays_as_it_was():
    message = {"op": "run", "config": {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "cgroupsPath": "/a"}}}
    rest, profile = split_profile(message)
    assert rest["has_program"]
    assert rest["config"]["linux"] == {"seccomp": None, "cgroupsPath": "/a"}
    assert profile == {"defaultAction": "SCMP_ACT_ALLOW"}
    assert message["config"]["linux"]["seccomp"]
    assert split_profile({"op": "execute", "seccomp": None})[1] is None


NUMBERS = json.loads((Path(defaults.__file__).parent / "syscalls.json").read_text())["tables"]["x86_64"]
WORDS = st.sampled_from([0, 1, 39, 40, 2**32 - 1, 2**32, 2**32 + 40])  # few, so that they meet
COMPARE = {
    **{"SCMP_CMP_EQ": operator.eq, "SCMP_CMP_NE": operator.ne, "SCMP_CMP_LT": operator.lt},
    **{"SCMP_CMP_LE": operator.le, "SCMP_CMP_GT": operator.gt, "SCMP_CMP_GE": operator.ge},
}
ARGUMENT = st.builds(
    lambda index, op, value, two: {"index": index, "op": op, "value": value, "valueTwo": two},
    st.integers(0, 2),
    st.sampled_from([*COMPARE, "SCMP_CMP_MASKED_EQ"]),
    WORDS,
    WORDS,
)
ENTRY = st.builds(
    lambda names, errno, args: {"names": sorted(names), "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args},
    st.sets(st.sampled_from(["socket", "read", "no_such_call"]), min_size=1),
    st.integers(1, 130),
    st.lists(ARGUMENT, max_size=3),
)


def evaluated(entries: list[dict], name: str, arguments: tuple[int, ...]) -> int:
    """What the rules say, read by a person: those with conditions first; several conditions on one argument are alternatives."""
    mine = [entry for entry in entries if name in entry["names"]]
    for entry in sorted(mine, key=lambda entry: not entry["args"]):
        held = [holds(one, name, arguments) for one in entry["args"]]
        alternatives = len({one["index"] for one in entry["args"]}) < len(entry["args"])
        if any(held) if alternatives else all(held):
            return seccomp.RET_ERRNO | entry["errnoRet"]
    return seccomp.RET_LOG


def holds(one: dict, name: str, arguments: tuple[int, ...]) -> bool:
    wanted, seen = (one["valueTwo"] if one["op"] == "SCMP_CMP_MASKED_EQ" else one["value"]), arguments[one["index"]]
    if one["index"] in INT_ARGUMENTS.get(name, ()) and wanted < 2**32:
        seen &= 2**32 - 1  # all that the kernel sees
    if one["op"] == "SCMP_CMP_MASKED_EQ":
        mask = one["value"] if one["index"] not in INT_ARGUMENTS.get(name, ()) or wanted >= 2**32 else one["value"] & (2**32 - 1)
        return seen & mask == wanted
    return bool(COMPARE[one["op"]](seen, wanted))


@settings(max_examples=300, deadline=None)
@given(st.lists(ENTRY, max_size=4), st.sampled_from(["socket", "read"]), st.tuples(WORDS, WORDS, WORDS))
def test_a_profile_does_what_its_rules_say(entries, name, arguments):
    program = Compiler().program({"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": entries})
    assert interpret(program, NUMBERS[name], (*arguments, 0, 0, 0)) == evaluated(entries, name, arguments)
