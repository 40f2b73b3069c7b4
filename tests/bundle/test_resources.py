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


@pytest.mark.parametrize(
    ("text", "size"), [("50M", 52428800), ("1.5g", 1610612736), ("20k", 20480), ("3KiB", 3072), ("7 b", 7), ("12345", 12345), ("-1", -1)]
)
def test_sizes(text, size):
    assert resources._bytes("memory", text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "-2", "1.k", "k"])
def test_what_is_no_size(text):
    with pytest.raises(Failure, match="invalid value for memory"):
        resources._bytes("memory", text)


def test_what_belongs_together_stays_together(runtime):
    """Without a limit of memory there is none of memory and swap; cgroup v2 has quota and period in one file, swap without memory."""
    configuration = bundle_config("sleep", "600")
    path = configuration["linux"]["cgroupsPath"]
    configuration["linux"]["resources"] |= {
        "memory": {"limit": 67108864, "swap": 134217728},
        "cpu": {"quota": 50000, "period": 100000},
    }
    ident = runtime.create(configuration)
    runtime("start", ident)
    found = cgroup.find()
    memory, cpu = (Path(found.directory(one, path) or "") for one in ("memory", "cpu"))
    names = ("memory.max", "memory.swap.max") if found.v2 else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    unlimited = "max" if found.v2 else "9223372036854771712"

    def seen() -> list[str]:
        return [(memory / name).read_text().strip() for name in names if (memory / name).exists()]

    runtime("update", "--cpu-period", "80000", ident)
    runtime("update", "--memory-swap", "96M", ident)
    assert seen() in (["67108864", str(100663296 - (67108864 if found.v2 else 0))], ["67108864"])
    if found.v2:
        assert (cpu / "cpu.max").read_text().split() == ["50000", "80000"]
    else:
        assert [(cpu / f"cpu.cfs_{one}_us").read_text().strip() for one in ("quota", "period")] == ["50000", "80000"]
    runtime("update", "--memory", "-1", ident)
    assert set(seen()) == {unlimited}


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("250ms", 0.25), ("2m", 120.0)])
def test_intervals(text, seconds):
    assert resources._seconds(text) == seconds


@pytest.mark.parametrize("text", ["5", "0s", "s", "xs"])
def test_what_is_no_interval(text):
    with pytest.raises(Failure, match="is not a time"):
        resources._seconds(text)
