"""Scheduling of a child process, read back from the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from wherry.kernel import scheduling


def in_child(act: Callable[[], None], read: Callable[[int], object]) -> object:
    """What ``read`` sees of a process that did ``act`` and now waits."""
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os.write(ready[1], b"y")
        finally:
            os.write(ready[1], b"n")
            os.read(done[0], 1)
            os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"y"
        return read(pid)
    finally:
        os.write(done[1], b"x")
        os.waitpid(pid, 0)
        for fd in (*ready, *done):
            os.close(fd)


def test_a_policy_with_its_parameters():
    assert in_child(lambda: scheduling.set_scheduler(scheduling.POLICIES["SCHED_BATCH"], nice=5), os.sched_getscheduler) == os.SCHED_BATCH
    nice = in_child(lambda: scheduling.set_scheduler(scheduling.POLICIES["SCHED_OTHER"], nice=7), lambda pid: os.getpriority(0, pid))
    assert nice == 7


@pytest.mark.root
def test_a_deadline_needs_its_times():
    with pytest.raises(OSError, match="sched_setattr"):
        scheduling.set_scheduler(scheduling.POLICIES["SCHED_DEADLINE"])


def test_execution_domain_is_what_uname_says():
    def machine(pid: int) -> str:
        with open(f"/proc/{pid}/personality") as file:
            return file.read().strip()

    assert in_child(lambda: scheduling.set_personality(scheduling.DOMAINS["LINUX32"]), machine) == "00000008"
