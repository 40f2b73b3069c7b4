"""A group that runs out of memory says so."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from wherry.kernel import cgroup, limits, oom


def test_a_group_tells_of_a_kill_and_of_its_removal() -> None:
    groups, path = cgroup.find(), f"/wherry-test-oom-{os.getpid()}"
    if os.getuid() or groups.directory("memory", path) is None:
        pytest.skip("needs root and a memory cgroup")
    cgroup.create(groups, path)
    limits.apply(groups, path, {"memory": {"limit": 20 << 20, "swap": 20 << 20}})
    fd = oom.watch(groups, path)
    try:
        assert not select.select([fd], [], [], 0)[0]
        hog = f"open({groups.directory('memory', path) + '/cgroup.procs'!r}, 'w').write('0'); b'x' * (100 << 20)"
        assert subprocess.run([sys.executable, "-c", hog], check=False).returncode == -9
        assert select.select([fd], [], [], 10)[0]
        os.read(fd, 4096)
        assert cgroup.oom_kills(groups, path) == 1
    finally:
        cgroup.end(groups, path)
        os.close(fd)


def test_a_group_that_is_not_there_cannot_be_watched() -> None:
    if cgroup.find().directory("memory", "/x") is None:
        pytest.skip("needs a memory cgroup")
    with pytest.raises(FileNotFoundError):
        oom.watch(cgroup.find(), "/wherry-test-absent")
