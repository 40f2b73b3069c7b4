"""Device rules as an eBPF program, on any cgroup v2 that is mounted."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from tests import forked

from wherry.kernel import devicefilter

RULES = [
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    {"allow": False, "type": "c", "major": 1, "minor": 5, "access": "w"},
]


def _v2() -> str:
    with open("/proc/self/mountinfo") as file:
        return next((line.split()[4] for line in file if " - cgroup2 " in line), "")


@pytest.fixture
def group() -> Iterator[str]:
    if not (root := _v2()):
        pytest.skip("no cgroup v2 is mounted")
    path = f"{root}/wherry-test-{secrets.token_hex(4)}"
    os.mkdir(path)
    yield path
    os.rmdir(path)


@pytest.mark.root
def test_the_last_rule_that_matches_decides(group: str):
    devicefilter.attach(group, devicefilter.assemble(RULES))
    assert _allowed(group) == [True, True, False, False]


@pytest.mark.root
def test_new_rules_replace_the_old_ones(group: str):
    devicefilter.attach(group, devicefilter.assemble([{"allow": False}]))
    assert _allowed(group) == [False] * 4
    devicefilter.attach(group, devicefilter.assemble([{"allow": True}]))
    assert _allowed(group) == [True] * 4


@pytest.mark.parametrize(
    ("rule", "words"), [({"type": "u", "allow": True}, "u is not a type"), ({"type": "c", "access": "rx"}, "access rx is not made of")]
)
def test_rules_that_mean_nothing_are_refused(rule: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        devicefilter.assemble([rule])


def _allowed(group: str) -> list[bool]:
    """Whether a process in the group may open null, zero to read, zero to write, urandom."""

    def inside() -> int:
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")
        wanted = [("/dev/null", os.O_RDWR), ("/dev/zero", os.O_RDONLY), ("/dev/zero", os.O_WRONLY), ("/dev/urandom", os.O_RDONLY)]
        return sum(_opens(path, flags) << bit for bit, (path, flags) in enumerate(wanted))

    bits = forked.exit_code(inside)
    assert bits != forked.FAILED
    return [bool(bits >> bit & 1) for bit in range(4)]


def _opens(path: str, flags: int) -> bool:
    try:
        os.close(os.open(path, flags))
    except PermissionError:
        return False
    return True
