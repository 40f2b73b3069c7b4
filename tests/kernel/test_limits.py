"""Which files a limit writes, and what is refused by name."""

from __future__ import annotations

import pytest

from wherry.kernel import cgroup, limits


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (1, 1)])
def test_shares_become_weights(shares, weight):
    assert limits.cpu_weight(shares) == weight


def test_files_of_both_versions():
    resources = {
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 10},
        "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 99}]},
    }
    assert limits.settings(resources, v2=False) == [
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "10"),
        ("blkio", "blkio.throttle.read_bps_device", "8:0 99"),
    ]
    assert limits.settings(resources, v2=True) == [
        ("cpu", "cpu.weight", "20"),
        ("cpu", "cpu.max", "50000 100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "10"),
        ("io", "io.max", "8:0 rbps=99"),
    ]
    assert limits.settings({"pids": {"limit": -1}}, v2=True) == [("pids", "pids.max", "max")]


@pytest.mark.parametrize(
    ("resources", "v2", "words"),
    [
        ({"unified": {"pids.max": "1"}}, False, "linux.resources.unified needs cgroup v2"),
        ({"cpu": {"realtimeRuntime": 1}}, True, "cgroup v2 has no linux.resources.cpu.realtimeRuntime"),
        ({"blockIO": {"leafWeight": 10}}, True, "cgroup v2 has no linux.resources.blockIO.leafWeight"),
        ({"network": {"classID": 1}}, True, "cgroup v2 has no linux.resources.network"),
    ],
)
def test_what_a_version_does_not_have_is_named(resources, v2, words):
    with pytest.raises(cgroup.Unsupported, match=words):
        limits.settings(resources, v2=v2)


def test_a_limit_without_its_controller_is_named():
    with pytest.raises(cgroup.Unsupported, match=r"this machine has no pids cgroup for pids\.max"):
        limits.apply(cgroup.Hierarchies({}, None), "/a", {"pids": {"limit": 5}})
