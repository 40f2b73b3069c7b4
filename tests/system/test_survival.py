"""Any process of ours may die at any instant: containers run on, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.conftest import WHERRY, Daemon, busybox_tar
from tests.system import accounting
from tests.system.waiting import until

from wherry.kernel import cgroup

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_containers_run_on_through_kill_9_and_are_attached_again(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "counter", "bb", "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done")
    pid = engine.out("inspect", "counter", "-f", "{{.State.Pid}}")
    until(lambda: len(engine.out("logs", "counter").split()) > 3)
    engine.kill()
    time.sleep(0.3)  # lines are written meanwhile: that is what is tested
    engine.start()
    assert engine.out("inspect", "counter", "-f", "{{.State.Pid}} {{.State.Status}} {{.RestartCount}}") == f"{pid} running 0"
    before = len(engine.out("logs", "counter").split())
    until(lambda: len(engine.out("logs", "counter").split()) > before)
    lines = [int(line) for line in engine.out("logs", "counter").split()]
    assert lines == list(range(1, len(lines) + 1))
    assert engine.out("exec", "counter", "echo", "hi") == "hi"
    engine.run("stop", "-t", "0", "counter")
    assert engine.out("inspect", "counter", "-f", "{{.State.ExitCode}}") == "137"


def test_a_death_between_freezing_and_its_record_leaves_a_paused_container(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "steady", "bb", "sleep", "1000")
    path = f"/{accounting.settings_of(engine).tag}/{engine.out('inspect', 'steady', '-f', '{{.Id}}')}"
    for frozen, status in ((True, "paused"), (False, "running"), (True, "paused")):
        engine.kill()
        cgroup.freeze(cgroup.find(), path, frozen=frozen)
        engine.start()
        assert engine.out("inspect", "steady", "-f", "{{.State.Status}}") == status
    engine.run("rm", "-f", "steady")


def test_an_exit_while_the_daemon_is_dead_keeps_its_code_and_time(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "short", "bb", "sh", "-c", "echo bye; sleep 0.3; exit 7")
    recorded = _record_of_the_end(engine, engine.out("inspect", "short", "-f", "{{.Id}}"))
    engine.kill()
    until(recorded.exists)
    engine.start()
    state = json.loads(engine.out("inspect", "short", "-f", "{{json .State}}"))
    assert (state["Status"], state["ExitCode"]) == ("exited", 7)
    assert engine.out("logs", "short") == "bye"


def test_published_ports_answer_while_the_daemon_is_dead(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "web", "-p", "80", "bb", "sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -h /tmp")
    port = engine.out("port", "web", "80").split("\n")[0].rpartition(":")[2]

    def page(host: str) -> str:
        with urllib.request.urlopen(f"http://{host}:{port}/index.html", timeout=20) as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        try:
            return page("127.0.0.1") == "hello\n"
        except OSError:  # nobody listens yet
            return False

    until(answers)
    engine.kill()
    assert page("127.0.0.1") == "hello\n"
    assert page("[::1]") == "hello\n"
    engine.start()
    assert page("127.0.0.1") == "hello\n"
    assert engine.out("port", "web", "80").split("\n")[0].endswith(port)


def test_restart_always_starts_again_after_its_monitor_was_lost(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "keeper", "--restart", "always", "bb", "sleep", "1000")
    first, pid = engine.out("inspect", "keeper", "-f", "{{.State.StartedAt}} {{.State.Pid}}").split()
    monitor = parent_of(int(pid))
    engine.kill()
    os.kill(monitor, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    engine.start()
    until(lambda: engine.out("inspect", "keeper", "-f", "{{.State.Status}}") == "running")
    assert engine.out("inspect", "keeper", "-f", "{{.State.StartedAt}}") != first


def test_layers_are_mounted_once_and_no_daemon_leaves_a_mount(own_engine: Daemon) -> None:
    def mounts() -> list[str]:
        with open("/proc/self/mountinfo") as file:
            return [line.split()[4] for line in file if f" {own_engine.root}/run/mounts/" in line]

    if "Storage Driver: erofs" not in own_engine.out("info"):
        pytest.skip("this kernel cannot mount EROFS")
    own_engine.run("run", "-d", "--name", "runs", "bb", "sleep", "100")
    own_engine.run("run", "--rm", "bb", "true")
    assert len(mounts()) == 1
    own_engine.kill()
    own_engine.start()
    assert mounts() == []
    assert own_engine.out("exec", "runs", "cat", "/etc/group").startswith("root:x:0:")
    own_engine.run("run", "--rm", "bb", "true")
    assert len(mounts()) == 1
    own_engine.run("rm", "-f", "runs")
    own_engine.run("rmi", "bb")
    assert mounts() == []
    own_engine.run("import", "-", "bb", stdin=busybox_tar())
    own_engine.run("run", "--rm", "bb", "true")
    own_engine.stop()
    assert mounts() == []


def test_twenty_containers_notice_nothing_of_a_dead_daemon(own_engine: Daemon) -> None:
    engine = own_engine
    count = "i=0; while [ $i -lt {} ]; do i=$((i+1)); echo $i; sleep 0.05; done; exit {}"
    with ThreadPoolExecutor(4) as pool:
        starts = [
            pool.submit(engine.run, "run", "-d", "--net", "none", "--name", f"many{number}", "bb", "sh", "-c", count.format(lines, number))
            for number, lines in enumerate([40] * 10 + [100000] * 10)
        ]
        for start in starts:
            start.result()
    names = [f"many{number}" for number in range(20)]
    pids = [int(pid) for pid in engine.out("inspect", *names, "-f", "{{.State.Pid}}").split()]
    ends = [_record_of_the_end(engine, ident) for ident in engine.out("inspect", *names[:10], "-f", "{{.Id}}").split()]
    engine.kill()
    until(lambda: all(end.exists() for end in ends))
    started_s = time.time()
    engine.start()
    states = [json.loads(line) for line in engine.out("inspect", *names, "-f", "{{json .State}}").splitlines()]
    assert [(state["Status"], state["ExitCode"]) for state in states[:10]] == [("exited", number) for number in range(10)]
    assert [(state["Status"], state["Pid"]) for state in states[10:]] == [("running", pid) for pid in pids[10:]]
    finished_s = [datetime.fromisoformat(state["FinishedAt"][:26]).replace(tzinfo=UTC).timestamp() for state in states[:10]]
    assert max(finished_s) < started_s  # told by who saw it, not by who came later
    for name in names:
        lines = [int(line) for line in engine.out("logs", name).split()]
        assert lines == list(range(1, len(lines) + 1)), name
        assert len(lines) == 40 or name in names[10:], name


def _record_of_the_end(engine: Daemon, ident: str) -> Path:
    """Where a container's monitor writes of its end."""
    return engine.root / "data/containers" / ident / "exit.json"


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_writer_of_twenty_megabytes_is_not_held_up_while_the_daemon_is_dead(own_engine: Daemon, driver: str) -> None:
    engine = own_engine
    script = "read go; yes $(printf 'x%.0s' $(seq 1000)) | head -n 20000; echo end"
    engine.run("run", "-d", "-i", "--name", "flood", "--log-driver", driver, "bb", "sh", "-c", script)
    descriptor = os.pidfd_open(int(engine.out("inspect", "flood", "-f", "{{.State.Pid}}")))
    client = subprocess.Popen(
        [WHERRY, "-H", engine.host, "attach", "--sig-proxy=false", "flood"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert client.stdin is not None
    until(lambda: "attach" in engine.out("events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}").split())
    engine.kill()
    client.stdin.write(b"go\n")
    client.stdin.close()
    assert select.select([descriptor], [], [], 60)[0]  # it came to its end without a daemon
    os.close(descriptor)
    engine.start()
    client.wait(timeout=60)
    log = engine.run("logs", "flood").out
    assert len(log) == 20000 * 1001 + 4
    assert log.endswith("x\nend\n")
    assert engine.out("logs", "-n", "2", "flood").splitlines() == ["x" * 1000, "end"]


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_no_line_that_was_shown_is_lost_with_the_monitor(own_engine: Daemon, driver: str) -> None:
    engine = own_engine
    script = "i=0; while true; do i=$((i+1)); echo $i; done"
    options = ("--log-driver", driver, "--log-opt", "max-size=100k", "--log-opt", "max-file=1000", "--log-opt", "compress=true")
    engine.run("create", "--name", "busy", *options, "bb", "sh", "-c", script)
    for runs in (1, 2):
        engine.run("start", "busy")
        command = [WHERRY, "-H", engine.host, "logs", "-f", "busy"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            shown = [int(next(follower.stdout)) for _ in range(20000)]
            begun = shown.count(1)
            while begun < runs:
                shown.append(int(next(follower.stdout)))
                begun += shown[-1] == 1
            pid = int(engine.out("inspect", "busy", "-f", "{{.State.Pid}}"))
            os.kill(parent_of(pid), signal.SIGKILL)
            shown += [int(line) for line in follower.stdout]
        assert engine.out("wait", "busy") == "137"
        logged = [int(line) for line in engine.out("logs", "busy").split()]
        assert logged[: len(shown)] == shown
    assert logged.count(1) == 2  # what the second run wrote follows what was whole of the first
    again = logged.index(1, 1)
    assert logged[again:] == list(range(1, len(logged) - again + 1))
    assert logged[:again] == list(range(1, again + 1))


def parent_of(pid: int) -> int:
    return int(next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid:")).split()[1])
