"""A start in its parts: what is made ahead and taken or not, what waits for what, what fails, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import signal
from pathlib import Path

import pytest
from tests.runtime.harness import (
    config,
    first_process,
    is_ready,
    kill,
    parent,
    run,
    state,
)
from tests.system.waiting import until

from wherry.kernel import cgroup
from wherry.runtime import defaults
from wherry.runtime.failure import CREATE, LaunchFailure
from wherry.spec.launch import LogTarget

pytestmark = pytest.mark.root


def test_a_container_has_its_own_nodes_and_limits_where_others_were_made_ahead(image, tmp_path):
    """What a waiting first process has made already is what most containers want, and nothing that this one does not."""

    async def check(b):
        limit = "/sys/fs/cgroup/pids.max" if cgroup.find().v2 else "/sys/fs/cgroup/pids/pids.max"
        wanted = config("sh", "-c", f"stat -c %a,%t /dev/null /dev/zero /dev/fuse; stat -c %a /tmp; ls /tmp; cat {limit}")
        wanted["linux"]["devices"] = [
            {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600},
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
        ]
        other = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}
        wanted["mounts"] = [*wanted["mounts"], other]
        until(lambda: is_ready(b))
        assert (await b.run(wanted)).stdout.decode().split() == ["666,1", "600,1", "666,a", "755", "512"]
        if not cgroup.find().v2:
            until(lambda: is_ready(b))
            wanted = config("cat", "/sys/fs/cgroup/devices/devices.list")
            assert (await b.run(copy.deepcopy(wanted))).stdout.decode().split("\n")[2] == "c 1:3 rwm"
            until(lambda: is_ready(b))
            wanted["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
            result = await b.run(wanted)
            assert result.stdout == b"a *:* rwm\n", result

    run(check, image, tmp_path)


def test_what_waits_and_is_killed_or_let_go_leaves_no_control_group(image, tmp_path):
    def waiting():
        return [name for name in cgroup.children(cgroup.find(), "/wherry-test") if name.startswith(f"{defaults.SPARE_GROUP}-{zygote}-")]

    zygote = 0

    async def check(b):
        nonlocal zygote
        zygote = b.supervisor._zygote.pid
        until(lambda: is_ready(b) and (waiting() or cgroup.find().v2))
        before = waiting()
        slow = await asyncio.create_subprocess_exec("sleep", "600")  # as a first process that is not dead yet
        for name in before:
            for directory in cgroup.find().directories(f"/wherry-test/{name}"):
                Path(directory, "cgroup.procs").write_text(str(slow.pid))
            os.kill(pid := int(name.rpartition("-")[2]), signal.SIGKILL)
            until(lambda: not os.path.exists(f"/proc/{pid}"))
        try:
            assert await b.shell("echo well") == "well\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                slow.kill()
            await slow.wait()
        until(lambda: is_ready(b))
        assert not set(before) & set(waiting())

    run(check, image, tmp_path)
    assert not waiting()


def test_program_waits_for_what_its_launch_says_it_needs(image, tmp_path):
    async def check(b):
        for kind in (None, "pid"):  # with a first process that was made ahead, and without
            wanted = config("true")
            wanted["linux"]["namespaces"] = [one for one in wanted["linux"]["namespaces"] if one["type"] != kind]
            gate, opener = os.pipe()
            starting = asyncio.ensure_future(b.supervisor.run(b.launch(copy.deepcopy(wanted)), gate_fd=gate))
            done, _ = await asyncio.wait([starting], timeout=0.1)
            assert not done
            os.write(opener, b"1")
            process = await starting
            assert (await process.wait()).code == 0
            await process.acknowledge()
            os.close(opener)  # the end without another byte
            with pytest.raises(LaunchFailure, match="the network of the container was not made"):
                await b.supervisor.run(b.launch(wanted), gate_fd=gate)
            os.close(gate)

    run(check, image, tmp_path)


def test_hundred_runs_leak_nothing(image, tmp_path):
    async def check(b):
        await b.shell("true")
        until(lambda: is_ready(b))
        descriptors = len(os.listdir("/proc/self/fd"))
        zygote_fds = len(os.listdir(f"/proc/{b.supervisor._zygote.pid}/fd"))
        for _ in range(20):
            await asyncio.gather(*[b.run(config("true")) for _ in range(5)])
        until(lambda: is_ready(b))
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert len(os.listdir(f"/proc/{b.supervisor._zygote.pid}/fd")) == zygote_fds
        assert not any(os.path.exists(f"{d}/{i}") for i in b.made for d in cgroup.find().directories("/wherry-test"))
        assert not any((tmp_path / ident / "sock").exists() for ident in b.made)

    run(check, image, tmp_path)


async def ready(launch):
    """Returns when the monitor of a container waits for its first process."""
    async with asyncio.timeout(30):
        while not os.path.exists(launch.socket_path):  # noqa: ASYNC110 -- another process makes it
            await asyncio.sleep(0.001)


def test_a_first_process_that_is_killed_before_its_program_runs_is_a_failed_start(image, tmp_path):
    async def check(b):
        gate, opener = os.pipe()
        for kind in (None, "pid"):  # with a first process that was made ahead, and without
            until(lambda: is_ready(b))
            wanted = config("true")
            wanted["linux"]["namespaces"] = [one for one in wanted["linux"]["namespaces"] if one["type"] != kind]
            launch = b.launch(wanted)
            starting = asyncio.ensure_future(b.supervisor.run(launch, gate_fd=gate))
            await ready(launch)
            kill(first_process(b, "wherry-monitor"))
            with pytest.raises(LaunchFailure, match=f"^{CREATE}killed before it executed its program") as failure:
                await starting
            assert failure.value.code == 128
            until(lambda path=wanted["linux"]["cgroupsPath"]: cgroup.is_absent(cgroup.find(), path))
            assert not (Path(launch.record_dir) / "sock").exists()
        os.close(gate)
        os.close(opener)

    run(check, image, tmp_path)


def test_a_program_does_not_run_when_its_log_cannot_be_written(image, tmp_path):
    """Though its first process and its monitor prepare at the same time."""

    async def check(b):
        for kind in (None, "pid"):
            until(lambda: is_ready(b))
            wanted = config("touch", "/volume/ran")
            wanted["linux"]["namespaces"] = [one for one in wanted["linux"]["namespaces"] if one["type"] != kind]
            wanted["mounts"].append({"destination": "/volume", "type": "bind", "source": str(tmp_path), "options": ["rbind"]})
            launch = b.launch(wanted, log=LogTarget(driver="json-file", path=str(tmp_path / "nowhere" / "log")))
            with pytest.raises(LaunchFailure, match="nowhere"):
                await b.supervisor.run(launch)
            until(lambda: is_ready(b))
            assert not (tmp_path / "ran").exists()
            assert cgroup.is_absent(cgroup.find(), wanted["linux"]["cgroupsPath"])

    run(check, image, tmp_path)


def test_why_a_start_failed_is_told_though_its_monitor_spoke_meanwhile(image, tmp_path):
    async def check(b):
        gate, opener = os.pipe()
        launch = b.launch(config("true"))
        starting = asyncio.ensure_future(b.supervisor.run(launch, gate_fd=gate))
        await ready(launch)
        first = first_process(b, "wherry-monitor")
        until(lambda: state(first) == state(parent(first)) == "S")  # it waits for the network, and its monitor for it
        os.close(opener)
        with pytest.raises(LaunchFailure, match="the network of the container was not made"):
            await starting
        os.close(gate)

    run(check, image, tmp_path)
