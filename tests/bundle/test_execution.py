"""Programs beside the first one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.bundle.harness import COMMAND, bundle_config
from tests.system.waiting import until

from wherry.kernel import cgroup

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
        (("--apparmor", "x"), ("true",), "AppArmor"),
        (("--env", "A"), ("true",), "process.env: 'A' is not NAME=VALUE"),
        (("--cgroup", ".."), ("true",), "bad sub cgroup path"),
        (("--cgroup", "none"), ("true",), "no such file or directory"),
        (("--cgroup", "whaaat:/"), ("true",), "unknown controller whaaat"),
    ):
        done = runtime("exec", *flags, ident, *words, check=False)
        assert (done.code, text in done.err) == (255, True), done.err
    assert json.loads(runtime("ps", "--format", "json", ident).out) == [runtime.state(ident)["pid"]]


def test_capabilities_that_nobody_knows_are_told_and_left_out(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    done = runtime("exec", "--cap", "CAP_FLY", ident, "true")
    assert "ignored, this system does not know them: CAP_FLY" in done.err


def test_an_exec_may_be_in_groups_below_its_containers(runtime):
    found = cgroup.find()
    configuration = bundle_config("sleep", "600")
    path = configuration["linux"]["cgroupsPath"]
    ident = runtime.create(configuration)
    runtime("start", ident)
    for directory in found.directories(f"{path}/sub"):
        os.mkdir(directory)
    if not found.v2:
        cgroup.create(found, f"{path}/sub")  # which gives it processors
    read = ("cat", "/proc/self/cgroup")
    inside = runtime("exec", "--cgroup", "sub", ident, *read).out
    assert inside.count(":/sub\n") == len(found.directories(path))
    assert ":/sub\n" not in runtime("exec", "--cgroup", "/", ident, *read).out
    if found.v2:
        return
    lines = runtime("exec", "--cgroup", "memory:sub", "--cgroup", "cpu,pids:/sub", ident, *read).out.splitlines()
    assert {line.split(":")[1] for line in lines if line.endswith(":/sub")} == {"memory", "cpu", "pids"}


def test_an_exec_in_a_paused_container_begins_when_that_is_resumed(runtime):
    """It waits, and nothing else does: the container could never be resumed."""
    configuration = bundle_config("sleep", "600")
    found, path = cgroup.find(), configuration["linux"]["cgroupsPath"]
    members = Path(found.directory("freezer", path), "cgroup.procs")
    ident = runtime.create(configuration)
    runtime("start", ident)
    runtime("pause", ident)
    base = [*COMMAND, "--root", str(runtime.place / "state")]
    with subprocess.Popen([*base, "exec", "--ignore-paused", ident, "echo", "begun"], stdout=subprocess.PIPE, text=True) as waiting:
        try:
            until(lambda: len(members.read_text().split()) == 2)
            subprocess.run([*base, "resume", ident], timeout=20, check=True)
            assert waiting.communicate(timeout=20)[0] == "begun\n"
        finally:
            cgroup.freeze(found, path, frozen=False)  # or what is frozen could not be removed
            waiting.kill()


def test_an_exec_goes_where_the_first_process_is_when_the_group_takes_nobody(runtime):
    """systemd moves itself into a group below, and gives controllers to those."""
    found = cgroup.find()
    if not found.v2:
        pytest.skip("cgroup v1 controls here: see tools/v2kernel")
    configuration = bundle_config("sleep", "600")
    path = configuration["linux"]["cgroupsPath"]
    ident = runtime.create(configuration)
    runtime("start", ident)
    pid = runtime.state(ident)["pid"]
    group = Path(found.v2) / path.lstrip("/")
    (group / "init.scope").mkdir()
    (group / "init.scope/cgroup.procs").write_text(str(pid))
    (group / "cgroup.subtree_control").write_text("+memory")
    assert runtime("exec", ident, "cat", "/proc/self/cgroup").out == "0::/init.scope\n"
    assert "Device or resource busy" in runtime("exec", "--cgroup", "/", ident, "true", check=False).err


def test_programs_may_use_every_cpu_whatever_their_caller_is_bound_to(runtime):
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("needs two processors")
    configuration = bundle_config("sleep", "600")
    base = ["taskset", "-c", str(allowed[0]), *COMMAND, "--root", str(runtime.place / "state")]
    null = subprocess.DEVNULL
    created = [*base, "create", "--bundle", str(runtime.bundle(configuration)), "t-bound"]
    assert subprocess.run(created, stdin=null, stdout=null, stderr=null, timeout=60, check=False).returncode == 0
    runtime("start", "t-bound")
    assert sorted(os.sched_getaffinity(runtime.state("t-bound")["pid"])) == allowed
    words = ("exec", "t-bound", "grep", "Cpus_allowed_list", "/proc/self/status", "/proc/1/status")
    found = subprocess.run([*base, *words], capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert found[1] == found[3]
    assert found[1] != str(allowed[0])


def test_processors_that_there_are_none_of_are_named(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    file = runtime.place / "process.json"
    for affinity, words in (({"initial": "x"}, "execCPUAffinity.initial x"), ({"final": "8000"}, "execCPUAffinity.final 8000")):
        file.write_text(json.dumps({"args": ["true"], "cwd": "/", "execCPUAffinity": affinity}))
        done = runtime("exec", "--process", str(file), ident, check=False)
        assert (done.code, words in done.err) == (255, True), done.err


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
