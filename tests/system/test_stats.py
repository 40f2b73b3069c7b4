"""Statistics are what the control groups say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Daemon
from tests.system.talk import UnixConnection, ask

from wherry.kernel import cgroup

FIELDS = {
    *("name", "id", "read", "preread", "pids_stats", "blkio_stats", "num_procs", "storage_stats", "cpu_stats", "precpu_stats"),
    *("memory_stats", "networks"),
}


def number(path: Path) -> int:
    return int(path.read_text())


def test_a_sample_agrees_with_the_files_and_has_every_field(engine: Daemon) -> None:
    # the kernel may tell some hundred pages late of memory, so it is more than is looked for
    work = "dd if=/dev/zero of=/dev/shm/f bs=1M count=9 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
    script = f"{work}; touch /done; exec sleep 1000"
    engine.run("run", "-d", "--name", "measured", "--memory", "64m", "--pids-limit", "77", "bb", "sh", "-c", script)
    try:
        engine.run("exec", "measured", "sh", "-c", "while [ ! -e /done ]; do sleep 0.05; done")
        groups = cgroup.find()
        ident = engine.out("inspect", "measured", "-f", "{{.Id}}")
        path = next(path for path in _paths(engine, "measured") if path.endswith(ident))
        memory, pids = (Path(groups.directory(name, path) or "") for name in ("memory", "pids"))
        if groups.v2:
            pytest.skip("tests/system/test_cgroup_v2.py looks there")
        sample = ask(engine, "GET", f"/containers/{ident}/stats?stream=0&one-shot=1")[1]
        assert set(sample) == FIELDS
        assert sample["memory_stats"]["limit"] == 64 << 20
        assert 8 << 20 <= sample["memory_stats"]["usage"] <= number(memory / "memory.max_usage_in_bytes")
        assert sample["memory_stats"]["stats"]["total_cache"] >= 8 << 20
        assert sample["pids_stats"] == {"current": number(pids / "pids.current"), "limit": 77}
        spent = number(Path(groups.directory("cpuacct", path) or "") / "cpuacct.usage")
        usage = sample["cpu_stats"]["cpu_usage"]
        assert 0 < usage["total_usage"] <= spent
        assert usage["total_usage"] > 0.9 * spent
        assert sum(usage["percpu_usage"]) == pytest.approx(usage["total_usage"], rel=0.1)
        assert sample["cpu_stats"]["system_cpu_usage"] > usage["total_usage"]
        assert sample["precpu_stats"]["cpu_usage"]["total_usage"] == 0
        assert sample["networks"]["eth0"]["rx_errors"] == 0
    finally:
        engine.run("rm", "-f", "measured")


def _paths(engine: Daemon, name: str) -> list[str]:
    pid = engine.out("inspect", name, "-f", "{{.State.Pid}}")
    return [line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]


def test_a_stream_gives_each_sample_the_one_before_and_ends_with_the_container(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "streamed", "--net", "none", "bb", "sleep", "1000")
    connection = UnixConnection(engine.socket_path)
    connection.request("GET", "/containers/streamed/stats")
    answer = connection.getresponse()
    samples: list[Any] = [json.loads(answer.readline()) for _ in range(2)]
    assert samples[0]["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert samples[1]["precpu_stats"] == samples[0]["cpu_stats"]
    assert samples[1]["preread"] == samples[0]["read"]
    engine.run("rm", "-f", "streamed")
    assert [line for line in answer.read().splitlines() if json.loads(line)["id"] != samples[0]["id"]] == []
    connection.close()


def test_a_container_that_does_not_run_shows_noughts(engine: Daemon) -> None:
    engine.run("create", "--name", "resting", "bb", "true")
    sample = ask(engine, "GET", "/containers/resting/stats?stream=0")[1]
    assert (sample["read"], sample["pids_stats"], sample["memory_stats"]) == ("0001-01-01T00:00:00Z", {}, {})
    row = engine.out("stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}", "resting")
    assert row == "resting 0.00% 0B / 0B 0"
    engine.run("rm", "resting")
