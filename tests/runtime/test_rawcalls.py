"""The table's program, run as any program, and for the other machine type taken apart."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from wherry.kernel import libc
from wherry.runtime import rawcalls
from wherry.runtime.rawcalls import Sheet

NUMBERS = json.loads((Path(rawcalls.__file__).parent / "syscalls.json").read_text())["tables"]


def run(sheet: Sheet, tmp_path: Path) -> rawcalls.Answers:
    path = tmp_path / "calls"
    path.write_bytes(sheet.program())
    path.chmod(0o755)
    return sheet.answers(subprocess.run([str(path)], capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout)


@pytest.mark.skipif(libc.MACHINE not in rawcalls.MACHINES, reason="no code for this machine type")
def test_answers_are_the_kernels(tmp_path: Path) -> None:
    sheet = Sheet(libc.MACHINE, NUMBERS[libc.MACHINE])
    room = sheet.room(64)
    sheet.call("openat", -100, sheet.text(os.fsencode(__file__)), 0)
    sheet.call("read", 3, room, 32)
    sheet.call("openat", -100, sheet.text(b"/nonexistent"), 0)
    sheet.call(100_000)
    sheet.call("lseek", 3, 1 << 40, 0)
    answers = run(sheet, tmp_path)
    assert answers.calls == [3, 32, -errno.ENOENT, -errno.ENOSYS, 1 << 40]
    assert answers.bytes(room, 32) == Path(__file__).read_bytes()[:32]


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="only x86-64 has an entry for 32-bit programs")
def test_the_entry_of_32_bit_programs_answers_by_its_own_numbers(tmp_path: Path) -> None:
    sheet = Sheet("x86_64", NUMBERS["x86_64"])
    own = sheet.call("getpid")
    numbers = [sheet.legacy_call(NUMBERS["i386"]["getpid"]), sheet.legacy_call(NUMBERS["i386"]["close"], 77), sheet.legacy_call(9999)]
    assert numbers == [0, 1, 2]
    answers = run(sheet, tmp_path)
    if not answers.legacy:
        pytest.skip("this kernel runs no 32-bit programs")
    assert answers.legacy == [answers.calls[own], -errno.EBADF, -errno.ENOSYS]


def test_a_machine_without_that_entry_says_so() -> None:
    sheet = Sheet("aarch64", NUMBERS["aarch64"])
    assert sheet.legacy_call(1) is None
    assert sheet.program()[18] == 183


def test_what_is_not_its_output_is_refused() -> None:
    sheet = Sheet("x86_64", NUMBERS["x86_64"])
    sheet.call("getpid")
    sheet.program()
    with pytest.raises(ValueError, match="wrote 3 bytes"):
        sheet.answers(b"abc")
    sheet.room(rawcalls.LONGEST)
    with pytest.raises(ValueError, match="bytes of system calls"):
        sheet.program()
