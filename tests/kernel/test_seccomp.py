"""Programs are checked in an interpreter of classic BPF, and once in the kernel."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.kernel import seccomp
from wherry.kernel.seccomp import Condition, Rule

ALLOW, DENY, OTHER = seccomp.RET_ALLOW, seccomp.RET_ERRNO | 1, seccomp.RET_ERRNO | 99
OPERATORS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def interpret(program: bytes, number: int, arguments=(0,) * 6, arch=seccomp.AUDIT_ARCH["x86_64"]) -> int:
    """What the kernel would answer."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", program))
    position = value = 0
    while True:
        code, true, false, k = instructions[position]
        position += 1
        match code:
            case 0x20:
                value = struct.unpack_from("=I", data, k)[0]
            case 0x54:
                value &= k
            case 0x06:
                return k
            case 0x05:
                position += k
            case 0x15 | 0x25 | 0x35:
                holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k}[code]
                position += true if holds else false
            case _:
                raise AssertionError(code)


def test_numbers_above_the_highest_and_x32_are_unknown_calls():
    program = seccomp.assemble({"x86_64": {0: [Rule(ALLOW)], 5: [Rule(ALLOW)]}}, DENY)
    assert [interpret(program, number) for number in (0, 1, 5)] == [ALLOW, DENY, ALLOW]
    assert interpret(program, 6) == seccomp.RET_ERRNO | 38
    assert interpret(program, 0x40000000) == seccomp.RET_ERRNO | 38
    assert interpret(program, 0, arch=seccomp.AUDIT_ARCH["i386"]) == seccomp.RET_KILL_PROCESS


@settings(max_examples=100, deadline=None)
@given(
    operator=st.sampled_from(sorted(OPERATORS)),
    value=st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 40, 2**32 - 1, 2**32, 2**32 + 40])),
    argument=st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 39, 40, 41, 2**32 - 1, 2**32, 2**32 + 40])),
    mask=st.sampled_from([2**64 - 1, 0xFF, 0xFF00000000, 0x7E020000]),
    low_word=st.booleans(),
)
def test_conditions_hold_exactly_when_arithmetic_says(operator, value, argument, mask, low_word):
    if low_word:
        value &= 0xFFFFFFFF
        mask &= 0xFFFFFFFF
    condition = Condition(2, operator, value, mask, low_word=low_word)
    program = seccomp.assemble({"x86_64": {1: [Rule(ALLOW, (condition,))]}}, DENY)
    seen = argument & 0xFFFFFFFF if low_word else argument
    expected = ALLOW if OPERATORS[operator](seen & mask, value) else DENY
    assert interpret(program, 1, (0, 0, argument, 0, 0, 0)) == expected


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 600), st.sampled_from([ALLOW, OTHER]), max_size=200))
def test_every_number_finds_its_rule(actions):
    program = seccomp.assemble({"x86_64": {number: [Rule(action)] for number, action in actions.items()}}, DENY)
    highest = max(actions, default=-1)
    for number in range(0, 620, 3):
        expected = actions.get(number, DENY if number <= highest or highest < 0 else seccomp.RET_ERRNO | 38)
        assert interpret(program, number) == expected


def test_first_rule_that_matches_decides_and_all_conditions_must():
    rules = [Rule(OTHER, (Condition(0, "==", 1), Condition(1, ">", 5))), Rule(ALLOW, (Condition(0, "==", 1),))]
    program = seccomp.assemble({"x86_64": {3: rules}}, DENY)
    answers = [interpret(program, 3, (first, second, 0, 0, 0, 0)) for first, second in ((1, 6), (1, 5), (2, 6))]
    assert answers == [OTHER, ALLOW, DENY]


def test_too_long_a_program_is_refused():
    conditions = tuple(Condition(index, "==", 2**40 + index) for index in range(6))
    with pytest.raises(ValueError, match="larger than the kernel takes"):
        seccomp.assemble({"x86_64": {number: [Rule(ALLOW, conditions)] * (number + 1) for number in range(40)}}, DENY)


@pytest.mark.parametrize("default", [ALLOW, seccomp.RET_LOG, seccomp.RET_TRACE | 7])
def test_a_profile_that_lets_calls_through_lets_newer_ones_through_too(default):
    program = seccomp.assemble({"x86_64": {83: [Rule(DENY)]}}, default)
    assert [interpret(program, number) for number in (82, 83, 84, 439)] == [default, DENY, default, default]
