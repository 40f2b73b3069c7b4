"""The process table."""

from __future__ import annotations

import os

import pytest

from wherry.containers import top
from wherry.errors import InvalidRequest, NotSupported


def test_the_default_columns_are_those_of_ps_ef() -> None:
    titles, rows = top.table([os.getpid()], "-ef")
    assert titles == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert rows[0][1] == str(os.getpid())
    assert rows[0][2] == str(os.getppid())


def test_named_columns_and_titles() -> None:
    titles, rows = top.table([os.getpid()], "-o pid,comm=NAME,%mem")
    assert titles == ["PID", "NAME", "%MEM"]
    assert len(rows[0]) == 3


def test_a_process_that_has_gone_is_left_out() -> None:
    assert top.table([2**22 - 1], "-aux")[1] == []


def test_a_table_without_pids_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Couldn't find PID field in ps output"):
        top.columns("-o comm")


@pytest.mark.parametrize("arguments", ["-eo pid,cmd", "axo pid,cmd", "-e -o pid -o cmd", "-Ao pid,cmd", "-o pid,cmd"])
def test_columns_are_chosen_in_all_the_usual_ways(arguments: str) -> None:
    assert [title for title, _ in top.columns(arguments)] == ["PID", "CMD"]


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        *((words, "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND") for words in ("aux", "-aux", "axu", "-auxww", "uax")),
        *((words, "PID TTY STAT TIME COMMAND") for words in ("ax", "-ax", "x")),
        *((words, "PID TTY TIME CMD") for words in ("-e", "-A", "-w")),
        ("-aef", "UID PID PPID C STIME TTY TIME CMD"),
        ("-eo user,group,pid,comm", "USER GROUP PID COMMAND"),
    ],
)
def test_the_usual_tables_have_the_columns_of_ps(arguments: str, titles: str) -> None:
    found, rows = top.table([os.getpid()], arguments)
    assert found == titles.split()
    assert len(rows[0]) == len(found)


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(NotSupported, match="--forest"):
        top.columns("--forest")
