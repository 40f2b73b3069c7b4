"""Containers that use all they may, and clients that go or never read: the daemon and the others do not notice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from tests.conftest import WHERRY, Daemon, busybox_tar
from tests.system import accounting
from tests.system.stopwatch import Stopwatch
from tests.system.talk import ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_a_memory_hog_is_killed_and_told_so(engine: Daemon) -> None:
    engine.run("run", "--name", "hog", "-m", "16m", "bb", "tail", "-c", "100000000", "/dev/zero", check=False)
    state = json.loads(engine.out("inspect", "hog", "-f", "{{json .State}}"))
    engine.run("rm", "hog")
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)


def test_a_child_that_takes_too_much_memory_is_told_of_while_its_container_goes_on(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "survivor", "-m", "20m", "bb", "sh", "-c", "tail /dev/zero; echo $?; exec sleep 1000")
    try:
        until(lambda: engine.out("logs", "survivor").endswith("137"))
        until(
            lambda: engine.out("inspect", "survivor", "-f", "{{.State.Status}} {{.State.OOMKilled}}") == "running true"
        )  # told by another way
        engine.run("restart", "-t", "0", "survivor")
        engine.run("kill", "survivor")
        actions = engine.out(
            "events", "--since", "1h", "--until", "0s", "--filter", "container=survivor", "--format", "{{.Action}}"
        ).split()
        first = actions[: actions.index("die")]
        assert first.count("oom") == 1
    finally:
        engine.run("rm", "-f", "survivor")


def test_a_fork_bomb_stays_within_its_limit_and_goes_quickly(engine: Daemon) -> None:
    crowd = "i=0; while [ $i -lt 42 ]; do sleep 1000 & i=$((i + 1)); done"  # stays, also when all of the bomb fail to fork at once
    engine.run("run", "-d", "--name", "bomb", "--pids-limit", "50", "bb", "sh", "-c", f"{crowd}; f() {{ f | f & }}; f & exec sleep 1000")
    until(lambda: int(engine.out("stats", "--no-stream", "--format", "{{.PIDs}}", "bomb")) > 40)
    path = f"/sys/fs/cgroup/pids/{accounting.settings_of(engine).tag}"
    if os.path.isdir(path):
        ident = engine.out("inspect", "bomb", "-f", "{{.Id}}")
        with open(f"{path}/{ident}/pids.current") as file:
            assert int(file.read()) <= 50
    with Stopwatch() as watch:
        engine.run("rm", "-f", "bomb")
    assert watch.seconds < 5


def test_a_client_that_never_reads_delays_nobody_else(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run(
        "run", "-d", "--name", "flood", "--log-opt", "max-size=1m", "--log-opt", "max-file=2", "bb", "sh", "-c", "yes | head -c 400000000"
    )
    deaf = []
    for path in ("/containers/flood/logs?stdout=1&follow=1", "/containers/flood/attach?stream=1&stdout=1", "/events"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(engine.socket_path)
        connection.sendall(f"{'GET' if 'attach' not in path else 'POST'} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        deaf.append(connection)
    for _ in range(20):
        with Stopwatch() as watch:
            assert ask(engine, "GET", "/containers/json")[0] == 200
        assert watch.seconds < 1
    assert engine.process is not None
    resident = int((accounting.PROC / str(engine.process.pid) / "statm").read_text().split()[1]) * 4096
    assert resident < 200 << 20
    for connection in deaf:
        connection.close()
    engine.run("rm", "-f", "flood")


def test_clients_that_are_killed_leave_nothing_and_their_containers_run_on(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "steady", "bb", "sh", "-c", "while true; do echo x; sleep 0.05; done")
    engine.run("exec", "steady", "true")
    before = accounting.baseline(engine)
    environment = {**os.environ, "WHERRY_HOST": engine.host}
    for words in (
        ("attach", "steady"),
        ("logs", "-f", "steady"),
        ("exec", "-i", "steady", "cat"),
        ("events",),
        ("stats", "steady"),
        ("wait", "steady"),
    ):
        clients = [subprocess.Popen([WHERRY, *words], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
        time.sleep(0.4)  # until they are served
        for client in clients:
            client.send_signal(signal.SIGKILL)
            client.communicate()
    assert engine.out("inspect", "steady", "-f", "{{.State.Status}}") == "running"
    assert accounting.settled(before, lambda: accounting.count(engine)) == {}


def test_no_line_is_lost_and_nobody_waits_while_the_daemon_is_dead(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "writer", "bb", "sh", "-c", "seq 200000; touch /tmp/done; sleep 1000")
    engine.kill()
    engine.start()
    until(lambda: engine.run("exec", "writer", "ls", "/tmp/done", check=False).code == 0)
    until(lambda: engine.out("logs", "--tail", "1", "writer") == "200000")
    lines = engine.out("logs", "writer").split()
    assert lines == [str(number) for number in range(1, 200001)]


SLOW = {
    "a build's context": "POST /build",
    "a load": "POST /images/load",
    "an import": "POST /images/create?fromSrc=-",
    "a copy": "PUT /containers/talker/archive?path=/tmp",
    "a log": "POST /containers/talker/attach?logs=1&stdout=1",
    "a save": "GET /images/bb/get",
}


def test_many_clients_that_send_or_read_no_further_keep_nobody_waiting(own_engine: Daemon) -> None:
    """More than the daemon has threads for what others ask meanwhile."""
    engine = own_engine
    engine.run("run", "--name", "talker", "--net", "none", "bb", "sh", "-c", "yes | head -c 3000000")
    slow = []
    try:
        for request in SLOW.values():
            for _ in range(9):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(engine.socket_path)
                slow.append(connection)
                connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".encode())
            engine.run("run", "--rm", "--net", "none", "bb", "true", timeout=20)
    finally:
        for connection in slow:
            connection.close()
        engine.run("rm", "-f", "talker")


def test_a_file_of_holes_keeps_no_build_and_no_commit_busy(own_engine: Daemon) -> None:
    """It costs who makes it nothing, and whoever reads it hours: what no layer may hold is not read."""
    engine = own_engine
    words = "too much for a layer: f: more than 68719476736 bytes"
    built = engine.run("build", "--no-cache", "-", stdin=b"FROM bb\nRUN truncate -s 8000G /f\n", check=False, timeout=20)
    assert built.code == 1
    assert words in built.out + built.err
    engine.run("run", "--name", "hollow", "--net", "none", "bb", "sh", "-c", "truncate -s 8000G /f")
    try:
        assert words in engine.run("commit", "hollow", "full", check=False, timeout=20).err
        assert engine.out("diff", "hollow") == "A /f"
    finally:
        engine.run("rm", "-f", "hollow")


def test_an_image_of_many_volumes_keeps_nobody_waiting(own_engine: Daemon) -> None:
    """Each waits for the disk; the daemon's own loop must not."""
    engine = own_engine
    changes = ("--change", f"VOLUME {json.dumps([f'/v{number}' for number in range(500)])}")
    engine.run("import", *changes, "-", "hoarder", stdin=busybox_tar())
    asked, answered = threading.Event(), threading.Event()

    def create() -> None:
        asked.set()
        engine.run("create", "--name", "hoarder", "hoarder", "true")
        answered.set()

    slowest = 0.0
    asker = threading.Thread(target=create)
    asker.start()
    asked.wait()
    while not answered.is_set() and asker.is_alive():
        with Stopwatch() as watch:
            assert ask(engine, "GET", "/_ping")[0] == 200
        slowest = max(slowest, watch.seconds)
    asker.join()
    assert answered.is_set()
    assert len(engine.out("volume", "ls", "-q").split()) == 500
    engine.run("rm", "-v", "hoarder")
    assert engine.out("volume", "ls", "-q") == ""
    assert slowest < 1
