"""A running container through its control group."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bundle.harness import bundle_config

from wherry.bundle import resources
from wherry.bundle.failures import Failure
from wherry.kernel import cgroup

pytestmark = pytest.mark.root


def test_limits_change_and_are_seen(runtime):
    configuration = bundle_config("sleep", "600")
    path = configuration["linux"]["cgroupsPath"]
    ident = runtime.create(configuration)
    runtime("start", ident)
    runtime("update", "--memory", "41943040", "--pids-limit", "44", "--cpu-share", "300", ident)
    runtime("update", "--resources", "-", ident, stdin=json.dumps({"cpu": {"quota": 20000, "period": 50000}}))
    data = json.loads(runtime("events", "--stats", ident).out)["data"]
    assert (data["memory"]["usage"]["limit"], data["pids"]["limit"], data["pids"]["current"]) == (41943040, 44, 1)
    found = cgroup.find()
    if not found.v2:
        cpu = Path(found.directory("cpu", path) or "")
        assert [(cpu / name).read_text().strip() for name in ("cpu.shares", "cpu.cfs_quota_us")] == ["300", "20000"]
    assert "linux.intelRdt is not" in runtime("update", "--l3-cache-schema", "x", ident, check=False).err
    assert "nothing to change" in runtime("update", ident, check=False).err
    assert runtime("ps", ident).out.splitlines()[1].split()[-2:] == ["sleep", "600"]
    assert "options of ps are not supported" in runtime("ps", ident, "-ef", check=False).err


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("250ms", 0.25), ("2m", 120.0)])
def test_intervals(text, seconds):
    assert resources._seconds(text) == seconds


@pytest.mark.parametrize("text", ["5", "0s", "s", "xs"])
def test_what_is_no_interval(text):
    with pytest.raises(Failure, match="is not a time"):
        resources._seconds(text)
