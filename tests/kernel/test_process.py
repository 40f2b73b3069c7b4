"""Processes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from wherry.kernel import process
process.set_title(process.argument_area(), {expression})
with open("/proc/self/cmdline", "rb") as file:
    print(file.read().rstrip(b"\\0").decode())
"""


def titled(expression: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(expression=expression)], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_title_replaces_the_whole_command_line() -> None:
    assert titled("'wherry-test one two'") == "wherry-test one two"


def test_a_title_that_is_too_long_is_cut() -> None:
    shown = titled("'x' * 10_000")
    assert set(shown) == {"x"}
    assert len(shown) < 10_000
