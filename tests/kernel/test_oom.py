"""A group that is not there cannot be watched; what one tells that is: tests/engine/test_memory.py."""

from __future__ import annotations

import pytest

from wherry.kernel import cgroup, oom


def test_a_group_that_is_not_there_cannot_be_watched() -> None:
    groups = cgroup.find()
    if groups.directory("memory", "/x") is None:
        pytest.skip("needs a memory cgroup")
    with pytest.raises(FileNotFoundError):
        open(oom.events_file(groups, "/wherry-test-absent")) if groups.v2 else oom.watch(groups, "/wherry-test-absent")


def test_a_machine_without_a_memory_controller_says_so() -> None:
    with pytest.raises(cgroup.Unsupported):
        oom.watch(cgroup.Hierarchies({"pids": "/sys/fs/cgroup/pids"}, None), "/x")
