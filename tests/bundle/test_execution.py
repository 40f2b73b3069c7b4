"""Programs beside the first one."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.bundle.harness import COMMAND, bundle_config

pytestmark = pytest.mark.root


def test_exec_enters_everything_and_takes_its_flags(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    pid = runtime.state(ident)["pid"]
    script = "id -u; id -g; pwd; echo $A; for n in mnt net uts ipc cgroup pid; do readlink /proc/self/ns/$n; done; cat; exit 9"
    flags = ("--user", "1000:7", "--additional-gids", "2000", "--cwd", "/tmp", "--env", "A=b", "--no-new-privs")
    done = runtime("exec", *flags, ident, "sh", "-c", script, stdin="typed", check=False)
    names = ("mnt", "net", "uts", "ipc", "cgroup", "pid")
    assert (done.code, done.out.split()) == (
        9,
        ["1000", "7", "/tmp", "b", *(os.readlink(f"/proc/{pid}/ns/{one}") for one in names), "typed"],
    )


@pytest.mark.parametrize(("user", "expected"), [({"uid": 0, "gid": 0, "umask": 0}, "0000"), ({"uid": 0, "gid": 0}, "0022")])
def test_a_umask_of_nothing_is_one(runtime, user, expected):
    ident = runtime.create(bundle_config("sh", "-c", "umask > /dev/shm/umask; exec sleep 600", user=user))
    runtime("start", ident)
    script = "until [ -s /dev/shm/umask ]; do sleep 0.01; done; umask; cat /dev/shm/umask"
    assert runtime("exec", ident, "sh", "-c", script).out.split() == [expected, expected]


def test_exec_of_a_process_file_without_waiting(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    file, pid_file = runtime.place / "process.json", runtime.place / "pid"
    process = {"args": ["sleep", "500"], "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": {"initial": "0", "final": "0"}}
    file.write_text(json.dumps(process))
    with open(os.devnull, "w") as null:
        words = ["--root", str(runtime.place / "state"), "exec", "--detach", "--pid-file", str(pid_file), "--process", str(file), ident]
        assert subprocess.run([*COMMAND, *words], stdin=null, stdout=null, stderr=null, timeout=60, check=False).returncode == 0
    pid = int(pid_file.read_text())
    assert os.sched_getaffinity(pid) == {0}
    assert pid in json.loads(runtime("ps", "--format", "json", ident).out)
    runtime("kill", "--all", ident, "KILL")


def test_an_exec_that_fails_says_why_and_leaves_no_process(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    for flags, words, text in (
        ((), ("nope",), 'exec: "nope": executable file not found in $PATH'),
        (("--cwd", "/nope"), ("true",), "chdir to cwd"),
        (("--user", "al"), ("true",), "users and groups are numbers"),
        (("--process", "/nope"), (), "--process /nope"),
        ((), (), "process args cannot be empty"),
        (("--cap", "CAP_FLY"), ("true",), "unknown capability CAP_FLY"),
        (("--apparmor", "x"), ("true",), "AppArmor"),
    ):
        done = runtime("exec", *flags, ident, *words, check=False)
        assert (done.code, text in done.err) == (255, True), done.err
    assert json.loads(runtime("ps", "--format", "json", ident).out) == [runtime.state(ident)["pid"]]


def test_exec_waits_for_a_paused_container_to_be_allowed(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    assert "not exist" in runtime("exec", "t-none", "true", check=False).err
    runtime("start", ident)
    runtime("pause", ident)
    assert "paused container" in runtime("exec", ident, "true", check=False).err
    runtime("resume", ident)
    assert "container not paused" in runtime("resume", ident, check=False).err
    runtime("kill", ident, "KILL")
    runtime("delete", "--force", ident)
