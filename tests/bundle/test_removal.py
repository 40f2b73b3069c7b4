"""``kill`` where it is about more than the first process."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.bundle.harness import COMMAND, Runtime, bundle_config
from tests.system.waiting import until

from wherry.kernel import cgroup

pytestmark = pytest.mark.root


def of_host_pids(runtime: Runtime) -> tuple[str, int, str]:
    """A running container that shares the host's pids, with a second process in it: its id, first process and group."""
    configuration = bundle_config("sleep", "600")
    configuration["linux"]["namespaces"] = [one for one in configuration["linux"]["namespaces"] if one["type"] != "pid"]
    ident = runtime.create(configuration)
    runtime("start", ident)
    words = ["--root", str(runtime.place / "state"), "exec", "--detach", ident, "sleep", "601"]
    null = subprocess.DEVNULL
    subprocess.run([*COMMAND, *words], stdin=null, stdout=null, stderr=null, timeout=60, check=True)
    return ident, runtime.state(ident)["pid"], configuration["linux"]["cgroupsPath"]


@pytest.mark.parametrize("first_is_gone", [False, True])
def test_who_shares_the_hosts_pids_is_killed_with_all_that_he_started(runtime, first_is_gone):
    ident, pid, group = of_host_pids(runtime)
    if first_is_gone:
        os.kill(pid, 9)
        until(lambda: runtime.state(ident)["status"] == "stopped")
        left = json.loads(runtime("ps", "--format", "json", ident).out)
        assert (len(left), pid in left) == (1, False)
    runtime("kill", ident, "KILL")
    until(lambda: cgroup.processes(cgroup.find(), group) == [])
    assert "container not running" in runtime("kill", ident, "KILL", check=False).err
    runtime("delete", ident)


def test_other_signals_go_to_the_first_alone(runtime):
    ident, pid, group = of_host_pids(runtime)
    runtime("kill", ident, "TERM")
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert len(cgroup.processes(cgroup.find(), group)) == 1


def test_who_is_killed_while_paused_ends(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    runtime("pause", ident)
    runtime("kill", ident, "KILL")
    until(lambda: runtime.state(ident)["status"] == "stopped")
