"""The way from a container to its program, as calls in their order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from wherry.kernel import credentials, process
from wherry.runtime import becoming
from wherry.runtime.becoming import Program, Start
from wherry.runtime.failure import StartFailure

SETS = ("bounding", "permitted", "effective", "inheritable", "ambient")
KILL, CHOWN = (1 << credentials.NUMBERS[name] for name in ("CAP_KILL", "CAP_CHOWN"))
EVERYTHING = (1 << 41) - 1
FILTER = bytes(8)


class Recorded:
    """`Calls` that nobody makes.  ``made``: their names and arguments."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **more: self.made.append((name, *arguments, *more.values()))

    def permitted(self) -> int:
        return EVERYTHING


def become(user: dict[str, Any], sets: Mapping[str, Sequence[str]], **more: Any) -> list[tuple[Any, ...]]:
    wanted = {"args": ["true"], "cwd": os.getcwd(), "user": user, "capabilities": sets, **more}
    calls: Any = Recorded()
    with open("/dev/zero") as file:
        stdio = (file.fileno(),) * 3
        start = Start(process=wanted, user="", groups=(), stdio=stdio, terminal=False, program=FILTER, program_flags=2, exact=True)
        becoming.become(calls, start, at_gate=lambda _: calls.made.append(("gate",)))
        becoming.filter_last(calls, start)
    return [one[::2] if one[0] == "dup2" else one for one in calls.made]


def test_privileges_go_after_the_gate_and_the_filter_just_before_the_last_of_them() -> None:
    limits = [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]
    made = become({"uid": 0, "gid": 5, "additionalGids": [6], "umask": 0o77}, dict.fromkeys(SETS, ("CAP_KILL",)), rlimits=limits)
    assert made == [
        *(("setsid",), ("dup2", 0), ("dup2", 1), ("dup2", 2), ("enter_this_directory",), ("prlimit", "RLIMIT_CORE", 1, 2, True)),
        *(("umask", 0o77), ("close_on_exec", 3), ("use_every_cpu",), ("default_signals",), ("gate",)),
        *(("drop_bounding", KILL), ("prctl", credentials.PR_SET_KEEPCAPS, 1)),
        *(("setgroups", (6,)), ("setresgid", 5), ("setresuid", 0), ("prctl", process.PR_SET_DUMPABLE, 0)),
        ("capset", KILL | credentials.SYS_ADMIN, KILL | credentials.SYS_ADMIN, KILL),  # what the filter needs, and nothing more
        *(("seccomp", FILTER, 2), ("capset", KILL, KILL, KILL), ("raise_ambient", KILL)),
        ("prctl", process.PR_SET_PDEATHSIG, signal.SIGKILL),
    ]


def test_without_new_privileges_the_filter_is_the_very_last() -> None:
    made = become({"uid": 7, "gid": 8}, {}, noNewPrivileges=True)
    assert ("prctl", process.PR_SET_NO_NEW_PRIVS, 1) in made
    assert [one for one in made if one[0] in ("capset", "seccomp")] == [("capset", 0, 0, 0), ("seccomp", FILTER, 2)]
    assert made[-1] == ("seccomp", FILTER, 2)
    assert made[1:7] == [one for number in range(3) for one in (("dup2", number), ("fchown", number, 7))]


@pytest.mark.parametrize(
    ("uid", "sets", "expected"),
    [
        (0, {"permitted": ["CAP_KILL", "CAP_CHOWN"], "bounding": ["CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"]}, (KILL, KILL, 0)),
        (0, {"permitted": ["CAP_KILL"], "bounding": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"]}, (0, KILL, CHOWN)),
        (9, dict.fromkeys(SETS[:4], ("CAP_KILL",)), (0, 0, KILL)),
        (9, dict.fromkeys(SETS, ("CAP_KILL",)), (KILL, KILL, KILL)),
        (9, {**dict.fromkeys(SETS, ("CAP_KILL",)), "inheritable": []}, (0, 0, 0)),
    ],
)
def test_capabilities_at_last(uid: int, sets: Mapping[str, Sequence[str]], expected: tuple[int, int, int]) -> None:
    """Effective, permitted, inheritable: a user other than root has in force what is ambient."""
    assert [one[1:] for one in become({"uid": uid, "gid": 0}, sets) if one[0] == "capset"][-1] == expected


def test_where_a_program_may_be(tmp_path: Path) -> None:
    for name, mode in (("a", 0o755), ("b", 0o644), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "it").write_text("")
        (tmp_path / name / "it").chmod(mode)
    (tmp_path / "d" / "it").mkdir(parents=True)
    path = ":".join(str(tmp_path / name) for name in "dcba")
    assert list(Program(["it"], {"PATH": path}).files()) == [f"{tmp_path}/c/it", f"{tmp_path}/a/it"]
    for name, code in (("none", 127), (f"{tmp_path}/none", 127), (f"{tmp_path}/d/it", 126), (f"{tmp_path}/b/it", 126)):
        with pytest.raises(StartFailure) as failure:
            next(Program([name], {"PATH": path}).files())
        assert failure.value.code == code
