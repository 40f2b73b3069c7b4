"""Control groups of bundles: on the hierarchy that this machine has; the part of version 2 runs in tools/v2kernel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.bundle.harness import bundle_config

from wherry.bundle import bundles
from wherry.bundle.failures import Failure
from wherry.kernel import cgroup, limits

pytestmark = pytest.mark.root


def disk() -> tuple[int, int]:
    """A block device's numbers."""
    found = sorted(Path("/sys/block").iterdir(), key=lambda one: not one.name.startswith(("vd", "sd", "nvme", "xvd")))
    if not found:
        pytest.skip("no block device")
    major, minor = (found[0] / "dev").read_text().split(":")
    return int(major), int(minor)


def directory(path: str, controller: str) -> Path:
    return Path(cgroup.find().directory(controller, path) or "")


def test_limits_of_io_on_either_version(runtime):
    major, minor = disk()
    configuration = bundle_config("sleep", "600")
    throttle = {"major": major, "minor": minor, "rate": 1048576}
    configuration["linux"]["resources"]["blockIO"] = {
        "throttleReadBpsDevice": [throttle],
        "throttleWriteIOPSDevice": [{**throttle, "rate": 50}],
    }
    runtime.create(configuration)
    group = directory(configuration["linux"]["cgroupsPath"], "blkio")
    if cgroup.find().v2:
        assert (group / "io.max").read_text().split() == [f"{major}:{minor}", "rbps=1048576", "wbps=max", "riops=max", "wiops=50"]
    else:
        assert (group / "blkio.throttle.read_bps_device").read_text() == f"{major}:{minor} 1048576\n"
        assert (group / "blkio.throttle.write_iops_device").read_text() == f"{major}:{minor} 50\n"


def test_limits_of_version_2_by_the_kernels_own_names(runtime):
    if not cgroup.find().v2:
        pytest.skip("cgroup v1 controls here: see tools/v2kernel")
    configuration = bundle_config("sleep", "600")
    configuration["linux"]["resources"] |= {
        "unified": {"memory.high": "33554432", "pids.max": "21"},
        "memory": {"limit": 67108864, "swap": 100663296, "reservation": 16777216},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "cpus": "0"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
    }
    expected = {
        **{"memory.high": "33554432", "memory.max": "67108864", "memory.swap.max": "33554432", "memory.low": "16777216", "pids.max": "21"},
        **{"cpu.weight": str(limits.cpu_weight(512)), "cpu.max": "20000 50000", "cpuset.cpus": "0", "hugetlb.2MB.max": "4194304"},
    }
    ident = runtime.create(configuration)
    runtime("start", ident)
    group = directory(configuration["linux"]["cgroupsPath"], "memory")
    assert {name: (group / name).read_text().strip() for name in expected} == expected
    script = f"cat /proc/self/cgroup; cd /sys/fs/cgroup; cat {' '.join(expected)}; echo 1 > pids.max || mkdir own || echo closed"
    inside = runtime("exec", ident, "sh", "-c", script).out.splitlines()
    assert inside == ["0::/", *expected.values(), "closed"]
    runtime("pause", ident)
    assert ("frozen 1" in (group / "cgroup.events").read_text(), runtime.state(ident)["status"]) == (True, "paused")
    runtime("resume", ident)
    assert (group / "cgroup.events").read_text().count("frozen 0") == 1
    for resources, words in (
        ({"unified": {"memory.nothing": "1"}}, "memory.nothing"),
        ({"unified": {"../memory.max": "1"}}, "is not the name of a file"),
        ({"memory": {"swappiness": 5}}, "memory.swappiness: cgroup v2"),
        ({"cpu": {"realtimePeriod": 5}}, "cgroup v2 has no linux.resources.cpu.realtimePeriod"),
    ):
        done = runtime("update", "--resources", "-", ident, stdin=json.dumps(resources), check=False)
        assert (done.code, words in done.err) == (1, True), done.err


def test_device_rules_hold_and_can_be_changed(runtime):
    """On version 2 they are an eBPF program, and the new one takes the old one's place."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs a device that no container has: /dev/loop-control")
    configuration = bundle_config("sleep", "600")
    configuration["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    ident = runtime.create(configuration)
    runtime("start", ident)
    script = "rm -f /tmp/node; mknod /tmp/node c 10 237 && exec 3</tmp/node && echo open; rm -f /tmp/node"
    allowed = {"allow": True, "type": "c", "major": 10, "minor": 237, "access": "rwm"}
    assert "Operation not permitted" in runtime("exec", ident, "sh", "-c", script, check=False).err
    assert runtime("exec", ident, "sh", "-c", "echo > /dev/null && echo null").out == "null\n"
    runtime("update", "--resources", "-", ident, stdin=json.dumps({"devices": [allowed]}))
    assert runtime("exec", ident, "sh", "-c", script, check=False).out == "open\n"
    runtime("update", "--resources", "-", ident, stdin=json.dumps({"devices": [{"allow": False, "access": "rwm"}]}))
    assert "Operation not permitted" in runtime("exec", ident, "sh", "-c", script, check=False).err


def test_a_group_and_what_was_made_above_it_go(runtime):
    configuration = bundle_config("true")
    path = configuration["linux"]["cgroupsPath"]
    runtime.run(configuration)
    assert not any(os.path.exists(one) for one in cgroup.find().directories(os.path.dirname(path)))


def test_a_group_in_which_others_are_is_nobodys(runtime):
    """They would end with the container."""
    found = cgroup.find()
    path = f"/wherry-test-bundle-{os.getpid()}/others"
    cgroup.create(found, path)
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            for directory in found.directories(path):
                Path(directory, "cgroup.procs").write_text(str(other.pid))
            for group, words in (
                (path, f"container's cgroup is not empty: 1 process(es) found in {path}"),
                (os.path.dirname(path), "container's cgroup is not empty: 1 process(es)"),
            ):
                configuration = bundle_config("true")
                configuration["linux"]["cgroupsPath"] = group
                done = runtime.run(configuration, check=False)
                assert (done.code, words in done.err) == (1, True), done.err
                assert other.poll() is None
        finally:
            other.kill()
            other.wait()
            cgroup.remove(found, os.path.dirname(path))


@pytest.mark.parametrize("path", ["/", "//", "/.", "./"])
def test_the_root_of_the_hierarchies_is_nobodys(path):
    """Only looked at: to try it would end everything on the machine, were it wrong."""
    with pytest.raises(Failure, match="the root of the hierarchies cannot be a container's"):
        bundles.adapt({"linux": {"cgroupsPath": path}}, "/bundle", "boat", cgroup.Hierarchies({}, None))
