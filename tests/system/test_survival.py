"""Any process of ours may die at any instant: containers run on, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import time
import urllib.request

import pytest
from tests.conftest import Daemon, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.slow]


def until(condition: object, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


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


def test_an_exit_while_the_daemon_is_dead_keeps_its_code_and_time(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "short", "bb", "sh", "-c", "echo bye; sleep 0.3; exit 7")
    engine.kill()
    time.sleep(0.6)  # it ends meanwhile
    engine.start()
    state = json.loads(engine.out("inspect", "short", "-f", "{{json .State}}"))
    assert (state["Status"], state["ExitCode"]) == ("exited", 7)
    assert engine.out("logs", "short") == "bye"


def test_published_ports_answer_while_the_daemon_is_dead(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "web", "-p", "80", "bb", "sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -h /tmp")
    port = engine.out("port", "web", "80").split("\n")[0].rpartition(":")[2]

    def page(host: str) -> str:
        with urllib.request.urlopen(f"http://{host}:{port}/index.html", timeout=5) as answer:
            return str(answer.read().decode())

    until(lambda: page("127.0.0.1") == "hello\n")
    engine.kill()
    assert page("127.0.0.1") == "hello\n"
    assert page("[::1]") == "hello\n"
    engine.start()
    assert page("127.0.0.1") == "hello\n"
    assert engine.out("port", "web", "80").split("\n")[0].endswith(port)


def test_restart_always_starts_again_after_its_monitor_was_lost(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "keeper", "--restart", "always", "bb", "sleep", "1000")
    pid = int(engine.out("inspect", "keeper", "-f", "{{.State.Pid}}"))
    engine.run("exec", "keeper", "kill", "-9", "1", check=False)
    engine.kill()
    engine.start()
    until(lambda: engine.out("inspect", "keeper", "-f", "{{.State.Status}}") == "running")
    assert int(engine.out("inspect", "keeper", "-f", "{{.State.Pid}}")) >= pid


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
