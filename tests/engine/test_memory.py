"""Groups that run out of memory say so."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from wherry.engine.changes import Changes
from wherry.engine.memory import watch
from wherry.kernel import cgroup, limits


def test_a_group_tells_of_a_kill_and_is_left_in_the_end() -> None:
    groups, path = cgroup.find(), f"/wherry-test-oom-{os.getpid()}"
    if os.getuid() or groups.directory("memory", path) is None:
        pytest.skip("needs root and a memory cgroup")

    async def scenario() -> None:
        told, descriptors = asyncio.Event(), len(os.listdir("/proc/self/fd"))
        end = watch(groups, path, Changes(), told.set)
        hog = f"open({groups.directory('memory', path) + '/cgroup.procs'!r}, 'w').write('0'); b'x' * (100 << 20)"
        assert not told.is_set()
        assert await (await asyncio.create_subprocess_exec(sys.executable, "-c", hog)).wait() == -9
        async with asyncio.timeout(10):
            await told.wait()
        assert cgroup.oom_kills(groups, path) == 1
        end()
        assert len(os.listdir("/proc/self/fd")) == descriptors

    cgroup.create(groups, path)
    limits.apply(groups, path, {"memory": {"limit": 20 << 20, "swap": 20 << 20}})
    try:
        asyncio.run(scenario())
    finally:
        cgroup.end(groups, path)


def test_groups_of_v2_share_one_descriptor(tmp_path: Path) -> None:
    events = [tmp_path / str(number) / "memory.events" for number in range(200)]  # more than a user's 128 inotify descriptors
    for file in events:
        file.parent.mkdir()
        file.write_text("oom_kill 0")

    async def scenario() -> None:
        changes, told, descriptors = Changes(), set[int](), len(os.listdir("/proc/self/fd"))
        groups, one, both = cgroup.Hierarchies({}, str(tmp_path)), asyncio.Event(), asyncio.Event()
        ends = [watch(groups, f"/{number}", changes, partial(told.add, number)) for number in range(200)]
        ends += [watch(groups, "/7", changes, one.set), watch(groups, "/9", changes, both.set)]
        assert len(os.listdir("/proc/self/fd")) == descriptors + 1
        events[7].write_text("oom_kill 1")
        async with asyncio.timeout(10):
            await one.wait()
        assert told == {7}
        told.clear()
        ends[7]()
        events[7].write_text("oom_kill 2")
        events[9].write_text("oom_kill 1")
        async with asyncio.timeout(10):
            await both.wait()
        assert told == {9}
        for end in [*ends[:7], *ends[8:]]:
            end()
        assert len(os.listdir("/proc/self/fd")) == descriptors

    asyncio.run(scenario())
