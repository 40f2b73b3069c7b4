"""Processes."""

from __future__ import annotations

import os
import subprocess
import sys

from wherry.kernel import process

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


BESIDE_THREADS = """
import os, signal, sys, threading
from wherry.kernel import process

def work():
    while True:
        sum(range(1000))

sys.setswitchinterval(1e-5)  # the lock is asked for at every moment
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
for _ in range(300):
    readable, writable = os.pipe()
    pid, pidfd = process.clone(0)
    if pid == 0:
        signal.alarm(60)
        os.read(readable, 1)  # the interpreter's lock is let go and taken again
        os._exit(0)
    os.write(writable, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (readable, writable, pidfd):
        os.close(fd)
os._exit(0)
"""


def test_a_child_of_a_process_with_threads_gets_the_interpreters_lock_back() -> None:
    """Without it about one child in forty waited for a thread that it does not have."""
    subprocess.run([sys.executable, "-c", BESIDE_THREADS], check=True, timeout=110)


def test_a_child_that_ends_without_a_program_is_told_from_one_that_had_one() -> None:
    for work, expected in ((lambda: os._exit(0), True), (lambda: os.execv("/bin/true", ["true"]), False)):
        pid, pidfd = process.clone(0)
        if pid == 0:
            work()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert process.is_ending_unexecuted(pid) is expected
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    assert not process.is_ending_unexecuted(os.getpid())
