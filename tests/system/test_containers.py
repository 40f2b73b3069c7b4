"""Containers through the command line, one promise a test: life, streams, codes, limits, the sandbox, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import WHERRY, Daemon
from tests.system.talk import UnixConnection, ask
from tests.system.waiting import until

pytestmark = pytest.mark.root

DEFAULT_CAPABILITIES = "00000000a80425fb"  # Docker's fourteen


def state(engine: Daemon, name: str, field: str = "Status") -> str:
    return engine.out("inspect", name, "-f", f"{{{{.State.{field}}}}}")


# --- codes


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (["/no/such/program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_run_ends_with_the_programs_code(engine: Daemon, command: list[str], code: int) -> None:
    assert engine.run("run", "--rm", "bb", *command, check=False).code == code


def test_run_ends_with_125_when_the_engine_itself_fails(engine: Daemon) -> None:
    for wrong in (["--bogus", "bb"], ["-p", "x:y", "bb", "true"], ["-v", "/nowhere-absolute:relative", "bb", "true"]):
        assert engine.run("run", "--rm", *wrong, check=False).code == 125


def test_streams_stay_apart_and_input_reaches_the_program(engine: Daemon) -> None:
    done = engine.run("run", "--rm", "-i", "bb", "sh", "-c", "cat; echo wrong >&2", stdin=b"typed")
    assert (done.out, done.err) == ("typed", "wrong\n")
    assert engine.run("run", "--rm", "bb", "cat", stdin=b"not passed without -i").out == ""


def test_ten_megabytes_pass_unharmed_both_ways(engine: Daemon) -> None:
    data = bytes(range(256)) * 40_000
    done = subprocess.run(
        [WHERRY, "-H", engine.host, "run", "--rm", "-i", "bb", "cat"], input=data, capture_output=True, timeout=60, check=True
    )
    assert done.stdout == data


# --- life


def test_the_limit_of_processes_is_told_though_nobody_asked_for_it(engine: Daemon) -> None:
    shown = engine.out("info", "--format", "{{range .SecurityOptions}}{{println .}}{{end}}").split()
    limit = next(option for option in shown if option.startswith("name=pids-limit,")).rpartition("=")[2]
    files = "/sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max"
    assert engine.out("run", "--rm", "bb", "sh", "-c", f"cat {files} 2>/dev/null || true") == limit
    assert f"Default: {limit}" in engine.out("info")


def test_an_exec_beside_the_containers_end_says_that_it_has_ended(engine: Daemon) -> None:
    ident = engine.out("run", "-d", "bb", "sleep", "1000")
    pid = int(engine.out("inspect", "-f", "{{.State.Pid}}", ident))
    monitor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(monitor, signal.SIGSTOP)  # so that nobody hears of the end yet
    try:
        os.kill(pid, signal.SIGKILL)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        result = engine.run("exec", ident, "true", check=False)
    finally:
        os.kill(monitor, signal.SIGCONT)
    assert (result.code, result.out) == (128, "OCI runtime exec failed: exec failed: cannot exec in a stopped container\r\n")
    engine.out("rm", "-f", ident)


def test_what_an_event_does_not_tell_is_no_error_of_a_format(engine: Daemon) -> None:
    ident = engine.out("create", "bb", "true")
    engine.out("rm", ident)
    layout = '{{.Action}} {{.Actor.Attributes.signal}}{{index .Actor.Attributes "x"}} {{.Actor.Attributes.image}}'
    shown = engine.out("events", "--since", "1h", "--until", "0s", "--filter", f"container={ident}", "--format", layout)
    assert shown == "create <no value> bb\ndestroy <no value> bb"


@pytest.mark.parametrize(
    ("layout", "problem"), [("{{.Nope}}", "can't evaluate field Nope in type *events.Message"), ("{{", "unclosed action")]
)
def test_a_wrong_format_of_events_is_told_before_the_first(engine: Daemon, layout: str, problem: str) -> None:
    done = engine.run("events", "--format", layout, check=False)
    assert done.code == 64
    assert done.err.startswith("Error parsing format: template: ")
    assert problem in done.err


def test_run_is_attached_and_start_is_detached_unless_told(engine: Daemon) -> None:
    assert engine.out("run", "--name", "word", "bb", "echo", "hello") == "hello"
    assert engine.out("start", "word") == "word"
    engine.run("wait", "word")
    assert engine.out("start", "-a", "word") == "hello"
    assert engine.out("run", "-d", "--name", "quiet", "bb", "echo", "hello") == engine.out("inspect", "quiet", "-f", "{{.Id}}")
    engine.run("wait", "quiet")
    engine.run("rm", "word", "quiet")


def test_a_detached_run_that_cannot_start_names_the_container_that_it_made(engine: Daemon) -> None:
    done = engine.run("run", "-d", "bb", "nope", check=False)
    assert done.code == 127
    assert engine.out("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", done.out.strip()) == "created 127"
    engine.run("rm", done.out.strip())


def test_a_closed_input_is_an_empty_one(engine: Daemon) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" "$@" <&-', WHERRY, "-H", engine.host, "run", "--rm", "-i", "bb", "cat"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_input_that_is_not_named_among_the_streams_is_still_ended(engine: Daemon) -> None:
    assert engine.run("run", "--rm", "-i", "-a", "stdout", "bb", "cat", stdin=b"in", timeout=20).out == "in"


def test_published_ports_are_found_by_the_hosts_number(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "found", "-p", "127.0.0.1::80", "bb", "sleep", "1000")
    port = engine.out("port", "found", "80").rpartition(":")[2]
    try:
        shown = {
            key: engine.out("ps", "--filter", key, "--filter", "name=found", "--format", "{{.Names}}")
            for key in (f"publish={port}", "publish=80", "expose=80")
        }
        assert shown == {f"publish={port}": "found", "publish=80": "", "expose=80": "found"}
    finally:
        engine.run("rm", "-f", "found")


def test_a_container_goes_through_its_whole_life(engine: Daemon) -> None:
    name = "life"
    engine.run("create", "--name", name, "bb", "sleep", "1000")
    assert state(engine, name) == "created"
    engine.run("start", name)
    assert state(engine, name) == "running"
    first = state(engine, name, "Pid")
    engine.run("pause", name)
    assert state(engine, name) == "paused"
    engine.run("unpause", name)
    assert state(engine, name) == "running"
    engine.run("restart", "-t", "0", name)
    assert state(engine, name, "Pid") != first
    refused = engine.run("rm", name, check=False)
    assert refused.code == 1
    assert "container is running: stop the container before removing or force remove" in refused.err
    engine.run("stop", "-t", "0", name)
    assert (state(engine, name), state(engine, name, "ExitCode")) == ("exited", "137")
    engine.run("rename", name, "second-life")
    engine.run("rm", "second-life")
    assert engine.run("inspect", "second-life", check=False).code == 1


def test_stop_sends_the_stop_signal_and_waits_for_it(engine: Daemon) -> None:
    for options, name in ((["--stop-signal", "INT"], "INT"), ([], "TERM")):
        script = f"trap 'exit 7' {name}; echo ready; while true; do sleep 0.02; done"
        engine.run("run", "-d", "--name", "polite", *options, "bb", "sh", "-c", script)
        until(lambda: engine.out("logs", "polite") == "ready")
        engine.run("stop", "polite")
        assert state(engine, "polite", "ExitCode") == "7"
        engine.run("rm", "polite")


def test_wait_prints_the_code_when_the_container_ends(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "waited", "bb", "sh", "-c", "sleep 0.2; exit 5")
    assert engine.out("wait", "waited") == "5"
    engine.run("rm", "waited")


def test_rm_removes_several_and_dash_f_also_running_ones(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "one", "bb", "sleep", "1000")
    engine.run("create", "--name", "two", "bb", "true")
    assert engine.out("rm", "-f", "one", "two").split() == ["one", "two"]


def test_a_name_is_given_once(engine: Daemon) -> None:
    engine.run("create", "--name", "unique", "bb", "true")
    again = engine.run("create", "--name", "unique", "bb", "true", check=False)
    assert again.code == 1
    assert 'Conflict. The container name "/unique" is already in use by container' in again.err
    engine.run("rm", "unique")


def test_restart_on_failure_tries_as_often_as_told(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "stubborn", "--restart", "on-failure:2", "bb", "sh", "-c", "echo try; exit 1")
    until(lambda: state(engine, "stubborn") == "exited" and engine.out("inspect", "stubborn", "-f", "{{.RestartCount}}") == "2")
    assert engine.out("logs", "stubborn").split() == ["try"] * 3
    engine.run("start", "stubborn")  # who starts it himself gives it all its tries again
    until(lambda: engine.out("logs", "stubborn").split() == ["try"] * 6 and state(engine, "stubborn") == "exited")
    assert engine.out("inspect", "stubborn", "-f", "{{.RestartCount}}") == "2"
    engine.run("rm", "stubborn")


def test_rm_flag_leaves_nothing_of_the_container(engine: Daemon) -> None:
    engine.run("run", "--rm", "--name", "gone", "-v", "/data", "bb", "true")
    assert engine.run("inspect", "gone", check=False).code == 1
    engine.run("run", "-d", "--rm", "--name", "gone-later", "bb", "true")
    until(lambda: engine.run("inspect", "gone-later", check=False).code == 1)


# --- looking


def test_ps_shows_running_ones_and_with_a_all_of_them(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "ps-runs", "--label", "kind=ps", "bb", "sleep", "1000")
    engine.run("run", "--name", "ps-ended", "--label", "kind=ps", "bb", "sh", "-c", "exit 3", check=False)
    columns = "{{.Names}} {{.Image}} {{.Command}} {{.Status}}"
    shown = engine.out("ps", "--filter", "label=kind=ps", "--format", columns)
    assert shown.startswith('ps-runs bb "sleep 1000" Up ')
    everything = engine.out("ps", "-a", "--filter", "label=kind=ps", "--format", columns).splitlines()
    assert [line.split()[0] for line in everything] == ["ps-ended", "ps-runs"]
    assert "Exited (3)" in everything[0]
    ids = engine.out("ps", "-aq", "--filter", "label=kind=ps").split()
    assert [len(ident) for ident in ids] == [12, 12]
    engine.run("rm", "-f", *ids)
    assert engine.out("ps", "-aq", "--filter", "label=kind=ps") == ""


def test_logs_since_tail_timestamps_and_follow(engine: Daemon) -> None:
    engine.run(
        "run", "-d", "--name", "talker", "bb", "sh", "-c", "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three; sleep 0.1; echo four"
    )
    with subprocess.Popen(
        [WHERRY, "-H", engine.host, "logs", "-f", "talker"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        out, err = follower.communicate(timeout=60)
    assert (out, err) == ("one\nthree\nfour\n", "two\n")
    assert engine.out("logs", "--tail", "1", "talker") == "four"
    stamped = engine.out("logs", "-t", "--tail", "2", "talker").splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["three", "four"]
    assert engine.out("logs", "--since", stamped[1].split()[0], "talker") == "four"
    assert engine.out("logs", "--until", stamped[0].split()[0], "talker").startswith("one")
    engine.run("rm", "talker")


def test_inspect_takes_templates_before_and_after_the_name(engine: Daemon) -> None:
    engine.run("create", "--name", "looked-at", "-e", "A=1", "-l", "x=y", "bb", "echo", "a b")
    assert engine.out("inspect", "-f", "{{.Name}} {{json .Config.Cmd}}", "looked-at") == '/looked-at ["echo","a b"]'
    assert engine.out("inspect", "looked-at", "-f", '{{index .Config.Labels "x"}}') == "y"
    whole = json.loads(engine.out("container", "inspect", "looked-at"))[0]
    assert whole["Config"]["Image"] == "bb"
    engine.run("rm", "looked-at")


def test_top_port_and_stats_tell_of_a_running_container(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "watched", "-p", "127.0.0.1::80/tcp", "bb", "sleep", "1000")
    assert "sleep 1000" in engine.out("top", "watched")
    assert engine.out("port", "watched", "80").startswith("127.0.0.1:")
    name, memory, pids = (
        engine.out("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "watched").replace(" / ", "/").split()
    )
    assert (name, pids) == ("watched", "1")
    assert memory.split("/")[0] != "0B"
    engine.run("rm", "-f", "watched")


def test_diff_tells_what_was_added_changed_and_deleted(engine: Daemon) -> None:
    engine.run("run", "--name", "changed", "bb", "sh", "-c", "echo x > /etc/new; echo y >> /etc/passwd; rm /etc/group")
    assert sorted(engine.out("diff", "changed").splitlines()) == ["A /etc/new", "C /etc", "C /etc/passwd", "D /etc/group"]
    engine.run("rm", "changed")


# --- settings of the program


def test_what_is_too_deep_for_any_path_keeps_nothing_else_from_going_anywhere(engine: Daemon, tmp_path: Path) -> None:
    """Docker leaves it out too, and its ``diff`` fails."""
    name = "d" * 100
    script = f"mkdir /deep; cd /deep; while mkdir {name} && cd {name}; do n=$((n + 1)); echo $n >number; done; echo $n"
    count = engine.run("run", "--name", "abyss", "bb", "sh", "-c", script).out.strip()
    here, deepest = f"/deep/{'/'.join([name] * int(count))}/number", f"deep/{'/'.join([name] * int(count))}/"
    assert 3990 < len(here) < 4096
    assert f"A {here}" in engine.out("diff", "abyss").split("\n")
    for arguments in (["export", "abyss"], ["cp", "abyss:/deep", "-"]):
        with (tmp_path / "tar").open("wb") as file:
            engine.pipe(*arguments, stdout=file)
        with tarfile.open(tmp_path / "tar") as archive:
            names = archive.getnames()
        assert deepest + "number" in names
        assert f"{deepest}{name}" not in names
    assert "container abyss: too deep for any path, and left out of an archive: 1" in engine.log
    engine.run("commit", "abyss", "abyss")
    assert "too deep for any path, and left out of a layer: 1" in engine.log
    assert engine.out("run", "--rm", "abyss", "cat", here) == count
    engine.run("save", "-o", str(tmp_path / "saved"), "abyss")
    engine.run("rmi", "abyss")
    engine.run("load", "-i", str(tmp_path / "saved"))
    assert engine.out("run", "--rm", "abyss", "cat", here) == count
    assert "abyss" in engine.out("ps", "-as", "--format", "{{.Names}} {{.Size}}")
    engine.run("system", "df")
    engine.run("rm", "abyss")
    engine.run("rmi", "abyss")


def test_variables_directory_user_host_name_and_entrypoint(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a comment\nFROM_FILE=yes\n")
    script = 'echo "$A $FROM_FILE $PWD $(id -u):$(id -g) $(hostname)"'
    options = ["-e", "A=1", "--env-file", f"{tmp_path}/env", "-w", "/tmp/deep", "-u", "al", "-h", "boat", "--entrypoint", "sh"]
    assert engine.out("run", "--rm", *options, "bb", "-c", script) == "1 yes /tmp/deep 1000:1000 boat"


def test_init_reaps_and_the_program_is_not_process_one(engine: Daemon) -> None:
    assert engine.out("run", "--rm", "--init", "bb", "sh", "-c", "echo $$") != "1"
    assert engine.out("run", "--rm", "bb", "sh", "-c", "echo $$") == "1"


def test_the_process_that_reaps_keeps_nothing_open_of_the_way_to_it(engine: Daemon) -> None:
    """Whoever may trace it could open what it holds."""
    assert engine.out("run", "--rm", "--init", "--cap-add", "SYS_PTRACE", "bb", "ls", "/proc/1/fd").split() == ["0", "1", "2"]


# --- the sandbox


def test_capabilities_are_dockers_fourteen_and_follow_the_flags(engine: Daemon) -> None:
    def effective(*options: str) -> str:
        return engine.out("run", "--rm", *options, "bb", "sh", "-c", "grep CapEff /proc/self/status").split()[1]

    assert effective() == DEFAULT_CAPABILITIES
    assert effective("--cap-drop", "ALL") == "0" * 16
    assert effective("--cap-drop", "ALL", "--cap-add", "CHOWN") == "0000000000000001"
    assert effective("-u", "1000") == "0" * 16
    assert int(effective("--cap-add", "NET_ADMIN"), 16) == int(DEFAULT_CAPABILITIES, 16) | 1 << 12


def test_every_namespace_is_the_containers_own(engine: Daemon) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
    inside = engine.out("run", "--rm", "bb", "sh", "-c", "for n in " + " ".join(kinds) + "; do readlink /proc/self/ns/$n; done").split()
    for kind, link in zip(kinds, inside, strict=True):
        assert link != str(Path(f"/proc/self/ns/{kind}").readlink())


def test_proc_and_sys_are_masked_read_only_and_filtered(engine: Daemon) -> None:
    tries = (
        "cat /proc/kcore | wc -c",
        "echo x > /proc/sys/kernel/hostname || echo ro-proc",
        "mkdir /sys/x || echo ro-sys",
        "mount -t tmpfs t /tmp || echo no-mount",
    )
    script = "; ".join(tries)
    done = engine.run("run", "--rm", "bb", "sh", "-c", script)
    assert done.out.split() == ["0", "ro-proc", "ro-sys", "no-mount"]
    assert engine.out("run", "--rm", "bb", "sh", "-c", "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status").split() == [
        "NoNewPrivs:",
        "0",
        "Seccomp:",
        "2",
    ]


def test_read_only_roots_take_no_writes_but_on_a_tmpfs(engine: Daemon) -> None:
    done = engine.run(
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "bb",
        "sh",
        "-c",
        "echo x > /x || echo refused; echo y > /scratch/y && cat /scratch/y",
    )
    assert done.out.split() == ["refused", "y"]


def test_memory_process_and_cpu_limits_hold(engine: Daemon) -> None:
    engine.run(
        "run",
        "--name",
        "hungry",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "bb",
        "sh",
        "-c",
        "tail -c 200m /dev/zero | wc -c; exit 0",
        check=False,
    )
    assert engine.out("inspect", "hungry", "-f", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}") == "16777216 16777216"
    forks = engine.run(
        "run", "--rm", "--pids-limit", "8", "bb", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all", check=False
    )
    assert "all" not in forks.out
    assert "can't fork" in forks.err
    engine.run("run", "-d", "--name", "slow", "--cpus", "0.5", "bb", "sleep", "100")
    assert engine.out("inspect", "slow", "-f", "{{.HostConfig.NanoCpus}}") == "500000000"
    engine.run("update", "--cpus", "1", "-m", "64m", "--memory-swap", "64m", "slow")
    assert engine.out("inspect", "slow", "-f", "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}") == "1000000000 67108864"
    engine.run("rm", "-f", "hungry", "slow")


def test_a_program_that_takes_too_much_memory_is_killed_and_it_shows(engine: Daemon) -> None:
    script = "head -c 200000000 /dev/zero | sort > /dev/null"
    engine.run("run", "--name", "greedy", "-m", "20m", "--memory-swap", "20m", "bb", "sh", "-c", f"exec sh -c '{script}'", check=False)
    assert state(engine, "greedy", "OOMKilled") == "true"
    engine.run("rm", "greedy")


@pytest.mark.parametrize(("options", "mode", "mounted"), [((), "2", ""), (("--security-opt", "seccomp=unconfined"), "0", "mounted")])
def test_a_privileged_exec_has_every_capability_and_the_filter_of_its_container(
    engine: Daemon, options: tuple[str, ...], mode: str, mounted: str
) -> None:
    engine.run("run", "-d", "--name", "filtered", *options, "bb", "sleep", "1000")
    try:
        status = engine.out("exec", "--privileged", "filtered", "grep", "-E", "CapEff|Seccomp:", "/proc/self/status").split()
        whole = engine.out("run", "--rm", "--privileged", "bb", "grep", "CapEff", "/proc/self/status").split()
        assert status == [*whole, "Seccomp:", mode]
        done = engine.run("exec", "--privileged", "filtered", "sh", "-c", "mount -t tmpfs t /tmp && echo mounted", check=False)
        assert done.out.strip() == mounted
    finally:
        engine.run("rm", "-f", "filtered")


def test_privileged_sees_devices_and_may_mount(engine: Daemon) -> None:
    assert engine.out("run", "--rm", "--privileged", "bb", "sh", "-c", "mount -t tmpfs t /tmp && echo mounted") == "mounted"


# --- inside a running container


def test_exec_runs_as_told_and_gives_its_own_code(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "inner", "-e", "A=1", "bb", "sleep", "1000")
    assert engine.out("exec", "-e", "B=2", "-w", "/tmp", "-u", "al", "inner", "sh", "-c", 'echo "$A $B $PWD $(id -un)"') == "1 2 /tmp al"
    assert engine.run("exec", "inner", "sh", "-c", "exit 9", check=False).code == 9
    assert engine.run("exec", "inner", "/no/such", check=False).code == 127
    assert engine.out("exec", "-i", "inner", "cat", stdin=b"in") == "in"
    engine.run("exec", "-d", "inner", "sh", "-c", "echo done > /tmp/flag")
    until(lambda: engine.run("exec", "inner", "cat", "/tmp/flag", check=False).out == "done\n")
    engine.run("rm", "-f", "inner")


def test_cp_carries_files_and_folders_both_ways(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "dummy" / "deep").mkdir(parents=True)
    (tmp_path / "dummy" / "a.txt").write_text("a")
    (tmp_path / "dummy" / "deep" / "b.txt").write_text("b")
    engine.run("create", "--name", "boring_vaughan", "bb", "sleep", "1000")
    engine.run("cp", f"{tmp_path}/dummy/.", "boring_vaughan:/test")
    engine.run("start", "boring_vaughan")
    assert engine.out("exec", "boring_vaughan", "cat", "/test/a.txt", "/test/deep/b.txt") == "ab"
    (tmp_path / "back").mkdir()
    engine.run("cp", "boring_vaughan:/test", f"{tmp_path}/back")
    assert (tmp_path / "back" / "test" / "deep" / "b.txt").read_text() == "b"
    engine.run("cp", "boring_vaughan:/test/a.txt", f"{tmp_path}/new-name")
    assert (tmp_path / "new-name").read_text() == "a"
    assert engine.run("cp", "boring_vaughan:/missing", str(tmp_path), check=False).code == 1
    engine.run("rm", "-f", "boring_vaughan")


def test_export_is_a_tar_that_import_takes(engine: Daemon, tmp_path: Path) -> None:
    engine.run("run", "--name", "exported", "bb", "sh", "-c", "echo kept > /kept")
    engine.run("export", "-o", f"{tmp_path}/x.tar", "exported")
    engine.run("import", "--change", "CMD cat /kept", f"{tmp_path}/x.tar", "from-export:1")
    assert engine.out("run", "--rm", "from-export:1") == "kept"
    engine.run("rm", "exported")
    engine.run("rmi", "from-export:1")


def test_many_copy_into_and_from_a_container_that_does_not_run(engine: Daemon, tmp_path: Path) -> None:
    """Each mounts its layer: the kernel takes one mount at a time that writes to it."""
    (tmp_path / "file").write_text("kept")
    engine.run("create", "--name", "shared", "--net", "none", "bb", "cat", "/tmp/file")
    with tarfile.open(tmp_path / "file.tar", "w") as tar:
        tar.add(tmp_path / "file", "file")
    data = (tmp_path / "file.tar").read_bytes()

    def copy(number: int) -> int:
        connection = UnixConnection(engine.socket_path)
        try:
            if number % 2:
                connection.request("PUT", "/containers/shared/archive?path=/tmp", data, {"Content-Type": "application/x-tar"})
            else:
                connection.request("GET", "/containers/shared/archive?path=/bin/busybox")
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(copy, range(120))) == {200}
    assert engine.out("start", "-a", "shared") == "kept"
    engine.run("rm", "shared")


def test_commit_makes_an_image_with_another_command(engine: Daemon) -> None:
    engine.run("run", "--name", "base", "bb", "sh", "-c", "echo mine > /mine")
    engine.run("commit", "--change=CMD cat /mine", "-m", "said so", "-a", "me", "base", "committed:1")
    assert engine.out("run", "--rm", "committed:1") == "mine"
    assert (
        engine.out("image", "inspect", "committed:1", "-f", "{{json .Config.Cmd}} {{.Author}} {{.Comment}}")
        == '["/bin/sh","-c","cat /mine"] me said so'
    )
    engine.run("rm", "base")
    engine.run("rmi", "committed:1")


def test_events_tell_the_life_of_a_container(engine: Daemon) -> None:
    since = str(time.time())
    engine.run("run", "--rm", "--name", "eventful", "bb", "true")
    shown = ""

    def complete() -> bool:
        nonlocal shown
        shown = engine.out(
            "events", "--since", since, "--until", str(time.time()), "--filter", "container=eventful", "--format", "{{.Action}}"
        )
        return "destroy" in shown

    until(complete)
    assert shown.split() == ["create", "attach", "start", "die", "destroy"]


def test_hello_world_runs_with_no_network_at_all(engine: Daemon) -> None:
    assert "Hello from" in engine.out("run", "--rm", "hello-world")


def test_execs_that_are_over_are_forgotten_some_thousand_later(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "busy", "--net", "none", "bb", "sleep", "1000")
    try:
        made = [ask(engine, "POST", "/containers/busy/exec", {"Cmd": ["sleep", "100"]})[1]["Id"] for _ in range(3)]
        assert ask(engine, "POST", f"/exec/{made[0]}/start", {"Detach": True})[0] == 200
        made += [ask(engine, "POST", "/containers/busy/exec", {"Cmd": ["true"]})[1]["Id"] for _ in range(1000)]
        found = [ask(engine, "GET", f"/exec/{ident}/json")[0] for ident in (*made[:5], made[-1])]
        assert found == [200, 404, 404, 404, 200, 200]
    finally:
        engine.run("rm", "-f", "busy")
