"""What callers read: exit codes, the log, state, list, features, spec."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.bundle.harness import COMMAND, bundle_config
from tests.system.waiting import until

from wherry.bundle import states

pytestmark = pytest.mark.root


def test_errors_go_to_the_log_in_the_form_asked_for(runtime):
    log = runtime.place / "log"
    assert runtime("--log", str(log), "--log-format", "json", "start", "t-none", check=False).code == 1
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "start failed: container does not exist: t-none")
    runtime("--log", str(log), "delete", "t-none", check=False)
    assert 'level=error msg="container does not exist: t-none"' in log.read_text()
    assert "--systemd-cgroup is not supported" in runtime("--systemd-cgroup", "list", check=False).err
    assert "invalid container ID format" in runtime("state", "../x", check=False).err


def test_the_specs_config_runs(runtime):
    bundle = runtime.place / "spec"
    bundle.mkdir()
    runtime("spec", "--bundle", str(bundle))
    assert "config.json exists" in runtime("spec", "--bundle", str(bundle), check=False).err
    configuration = json.loads((bundle / "config.json").read_text())
    configuration["process"] |= {"terminal": False, "args": ["sh", "-c", "hostname; exit 5"]}
    configuration["linux"]["cgroupsPath"] = bundle_config()["linux"]["cgroupsPath"]
    done = runtime.run(configuration, check=False)
    assert (done.code, done.out) == (5, "wherry\n")


def test_features_and_version(runtime):
    found = json.loads(runtime("features").out)
    assert set(found["hooks"]) >= {"createRuntime", "poststop"}
    assert {"idmap", "tmpcopyup", "rro", "shared"} <= set(found["mountOptions"])
    assert (found["linux"]["cgroup"]["systemd"], found["linux"]["seccomp"]["enabled"]) == (False, True)
    assert runtime("--version").out.startswith("wherry-runtime version ")


def test_list_in_three_forms(runtime):
    assert runtime("list").out.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    ident = runtime.create(bundle_config("sleep", "600"))
    assert runtime("list", "--quiet").out == f"{ident}\n"
    rows = json.loads(runtime("list", "--format", "json").out)
    assert [(row["id"], row["status"], row["pid"] > 0) for row in rows] == [(ident, "created", True)]


def test_run_passes_signals_on_and_ends_as_its_program(runtime):
    configuration = bundle_config("sh", "-c", "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
    command = [*COMMAND, "--root", str(runtime.place / "state"), "run", "--bundle", str(runtime.bundle(configuration)), "t-signal"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "got\n"
    assert process.returncode == 3


def test_run_detached_and_kept(runtime):
    bundle = str(runtime.bundle(bundle_config("true")))
    runtime("run", "--keep", "--bundle", bundle, "t-kept")
    assert runtime.state("t-kept")["status"] == "stopped"
    runtime("delete", "t-kept")
    assert not Path(runtime.place, "state/t-kept").exists()


def test_a_recycled_pid_is_never_signalled(runtime):
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > states.start_time(other.pid) + 1)
            ident = runtime.create(bundle_config("sleep", "600"))  # so in another tick
            pid = runtime.state(ident)["pid"]
            file = runtime.place / "state" / ident / "state.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": other.pid}))
            assert runtime.state(ident)["status"] == "stopped"
            assert "container not running" in runtime("kill", ident, "KILL", check=False).err
            runtime("delete", "--force", ident)
            assert other.poll() is None
            assert states.start_time(pid) == 0
        finally:
            other.kill()
