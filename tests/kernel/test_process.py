"""Processes."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import forked

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


IGNORING = """
import signal, struct
from wherry.kernel import process

signal.signal(signal.SIGUSR1, signal.SIG_IGN)
for number in (32, 33):
    assert process._rt_sigaction(number, struct.pack("<4Q", signal.SIG_IGN, 0, 0, 0), None, 8) == 0
process.default_signals()
with open("/proc/self/status", encoding="ascii") as file:
    print(*(line.split()[1] for line in file if line.startswith(("SigIgn", "SigCgt"))))
"""


def test_every_signal_gets_its_default_action() -> None:
    """Those too that sigaction(3) does not know: what posix_spawn(3) starts, as make does, ignores signal 32."""
    done = subprocess.run([sys.executable, "-c", IGNORING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0" * 16, "0" * 16]


def test_all_descriptors_but_those_to_be_kept_are_closed() -> None:
    def work() -> int:
        for number in range(3, 9):
            os.dup2(0, number)
        process.close_others(7, 4, 4, 1)
        return 0 if sorted(os.listdir("/proc/self/fd"), key=int)[:6] == ["0", "1", "2", "3", "4", "7"] else 1  # 3: the listing's

    assert forked.exit_code(work) == 0
