"""Health checks: what a probe says, how it is told, and a daemon that stood still meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest
from tests.conftest import Daemon
from tests.system.waiting import until


def health(engine: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.out("inspect", name, "-f", "{{json .State.Health}}"))
    return found


def test_probes_are_told_of_and_their_last_five_results_kept(engine: Daemon) -> None:
    since = str(time.time())
    probe = "test -e /bad && exit 1; head -c 5000 /dev/zero | tr '\\0' x"
    engine.run(
        "run", "-d", "--name", "probed", "--health-cmd", probe, "--health-interval", "50ms", "--health-retries", "2", "bb", "sleep", "1000"
    )
    try:
        until(lambda: len(health(engine, "probed")["Log"]) == 5)
        found = health(engine, "probed")
        assert (found["Status"], found["FailingStreak"]) == ("healthy", 0)
        assert {(one["ExitCode"], one["Output"]) for one in found["Log"]} == {(0, "x" * 4096 + "...")}
        assert "(healthy)" in engine.out("ps", "--filter", "name=probed", "--format", "{{.Status}}")
        engine.run("exec", "probed", "touch", "/bad")
        until(lambda: health(engine, "probed")["Status"] == "unhealthy")
        assert health(engine, "probed")["FailingStreak"] >= 2
        kinds = engine.out(
            "events", "--since", since, "--until", "0s", "--filter", "container=probed", "--format", "{{.Action}}"
        ).splitlines()
        first = kinds.index("start") + 1
        assert kinds[first : first + 2] == [f"exec_create: /bin/sh -c {probe}", f"exec_start: /bin/sh -c {probe}"]
        assert set(kinds[first + 2 : first + 4]) == {"exec_die", "health_status: healthy"}
        assert [kind for kind in kinds if kind.startswith("health_status")] == ["health_status: healthy", "health_status: unhealthy"]
    finally:
        engine.run("rm", "-f", "probed")


@pytest.mark.parametrize(("before", "told"), [("", ""), ("echo one; echo two >&2; ", ": one\ntwo\n")])
def test_a_probe_that_takes_too_long_is_ended_and_says_so(engine: Daemon, before: str, told: str) -> None:
    options = ("--health-cmd", f"{before}sleep 77", "--health-interval", "50ms", "--health-timeout", "1s", "--health-retries", "1")
    engine.run("run", "-d", "--name", "slow-probe", *options, "bb", "sleep", "1000")
    try:
        until(lambda: health(engine, "slow-probe")["Status"] == "unhealthy")
        result = health(engine, "slow-probe")["Log"][0]
        assert (result["ExitCode"], result["Output"]) == (-1, f"Health check exceeded timeout (1s){told}")
    finally:
        engine.run("rm", "-f", "slow-probe")


def test_a_daemon_that_stood_still_blames_no_probe(own_engine: Daemon) -> None:
    engine = own_engine
    # A probe alone took up to 0.26 s with six busy loops beside it on two processors; the pauses below are longer than its patience.
    options = ("--health-cmd", "true", "--health-interval", "20ms", "--health-timeout", "1s", "--health-retries", "1")
    engine.run("run", "-d", "--name", "steady", *options, "bb", "sleep", "1000")
    until(lambda: health(engine, "steady")["Status"] == "healthy")
    assert engine.process is not None
    for _ in range(3):
        engine.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        os.waitid(os.P_PID, engine.process.pid, os.WSTOPPED | os.WNOWAIT)
        while time.monotonic() - began < 1.2:
            time.sleep(0.1)  # the point is that time passes
        engine.process.send_signal(signal.SIGCONT)
        assert health(engine, "steady")["Status"] == "healthy"
    actions = engine.out("events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}").splitlines()
    assert actions.count("health_status: healthy") == 1
    assert "health_status: unhealthy" not in actions
