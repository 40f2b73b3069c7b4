"""A container's life where two things meet: paused and told to end, restarting and waited for, started and removed at once."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import WHERRY, Daemon
from tests.system.talk import ask
from tests.system.waiting import until

pytestmark = pytest.mark.root

MINDS_TERM = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


def state(engine: Daemon, name: str, field: str = "Status") -> str:
    return engine.out("inspect", name, "-f", f"{{{{.State.{field}}}}}")


def start(engine: Daemon, name: str, *flags: str, script: str = MINDS_TERM) -> None:
    engine.run("run", "-d", "--name", name, *flags, "bb", "sh", "-c", script)
    until(lambda: "ready" in engine.out("logs", name))


def happened(engine: Daemon, name: str, since: float) -> list[str]:
    shown = engine.out(
        "events", "--since", f"{since:.6f}", "--until", "0s", "--filter", f"container={name}", "--filter", "type=container",
        "--format", '{{.Action}} {{index .Actor.Attributes "signal"}}',
    )  # fmt: skip
    return [line.replace("<no value>", "").strip() for line in shown.splitlines()]


def test_a_paused_program_that_is_stopped_may_still_do_its_last_work(engine: Daemon) -> None:
    start(engine, "held")
    try:
        engine.run("pause", "held")
        since = time.time()
        engine.run("stop", "-t", "30", "held")
        assert state(engine, "held", "ExitCode") == "3"
        assert happened(engine, "held", since) == ["kill 15", "unpause", "stop", "die"]
    finally:
        engine.run("rm", "-f", "held")


def test_a_signal_that_is_not_the_stop_signal_leaves_a_container_paused(engine: Daemon) -> None:
    start(engine, "held", "--stop-signal", "TERM")
    try:
        engine.run("pause", "held")
        engine.run("kill", "-s", "HUP", "held")
        assert state(engine, "held") == "paused"
        engine.run("kill", "-s", "TERM", "held")
        assert engine.out("wait", "held") == "3"
    finally:
        engine.run("rm", "-f", "held")


def test_a_program_that_a_signal_has_ended_is_not_started_again_but_for_one_that_has_another_stop_signal(engine: Daemon) -> None:
    def restarted(name: str) -> bool:
        return engine.out("inspect", "-f", "{{.RestartCount}}", name) == "1"

    for name, flags, restarts in (("meant", (), False), ("reloaded", ("--stop-signal", "TERM"), True)):
        start(engine, name, "--restart", "always", *flags, script="trap 'exit 4' USR2; echo ready; while :; do sleep 0.05; done")
        try:
            engine.run("kill", "-s", "USR2", name)
            if restarts:
                until(partial(restarted, name))
            else:
                assert engine.out("wait", name) == "4"
                assert (state(engine, name), restarted(name)) == ("exited", False)
        finally:
            engine.run("rm", "-f", name)


@pytest.mark.parametrize("condition", ["", "not-running", "next-exit"])
def test_who_waits_for_a_container_that_is_started_again_hears_of_its_next_end(engine: Daemon, condition: str) -> None:
    engine.run("run", "-d", "--name", "again", "--restart", "always", "bb", "sh", "-c", "sleep 0.2; exit 9")
    try:
        status, answer = ask(engine, "POST", f"/v1.47/containers/again/wait?condition={condition}")
        assert (status, answer["StatusCode"]) == (200, 9)
    finally:
        engine.run("rm", "-f", "again")


def test_pause_and_top_of_a_container_between_two_runs_say_that_it_is_restarting(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "again", "--restart", "always", "bb", "false")
    try:
        until(lambda: int(engine.out("inspect", "-f", "{{.RestartCount}}", "again")) > 4)  # then it rests for seconds
        until(lambda: state(engine, "again") == "restarting")
        ident = engine.out("inspect", "-f", "{{.Id}}", "again")
        for method, path in (("POST", "pause"), ("GET", "top")):
            status, answer = ask(engine, method, f"/v1.47/containers/again/{path}")
            assert (status, answer["message"]) == (409, f"Container {ident} is restarting, wait until the container is running")
    finally:
        engine.run("rm", "-f", "again")


@pytest.mark.parametrize("ending", ["stop?t=0", "kill", "?force=1"])
def test_what_starts_again_while_it_is_being_ended_ends_too(engine: Daemon, ending: str) -> None:
    """The second run began while the end waited for its turn: nobody knew of its program any more."""
    with ThreadPoolExecutor(2) as pool:
        for number in range(8):
            mark = f"{time.time_ns() // 1000}{number}"
            script = f"[ -e /ran ] && exec sleep {mark}; touch /ran; exit 1"
            body = {"Image": "bb", "Cmd": ["sh", "-c", script], "HostConfig": {"RestartPolicy": {"Name": "always"}}}
            path = f"/v1.47/containers/{ask(engine, 'POST', '/v1.47/containers/create', body)[1]['Id']}"
            ask(engine, "POST", f"{path}/start")
            until(lambda path=path: ask(engine, "GET", f"{path}/json")[1]["State"]["Restarting"])
            starting = pool.submit(ask, engine, "POST", f"{path}/start")
            ended = pool.submit(ask, engine, *(("DELETE", path + ending) if "force" in ending else ("POST", f"{path}/{ending}")))
            starting.result()
            ended.result()
            left = subprocess.run(["pgrep", "-f", f"^sleep {mark}$"], stdout=subprocess.PIPE, check=False).stdout
            found = ask(engine, "GET", f"{path}/json")[1]
            ask(engine, "DELETE", f"{path}?force=1")
            assert bool(left) == found.get("State", {}).get("Running", False)


def test_removal_by_force_is_not_stopped_by_a_start_at_the_same_time(engine: Daemon) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            _, made = ask(engine, "POST", "/v1.47/containers/create", {"Image": "bb", "Cmd": ["sleep", "1000"]})
            starting = pool.submit(ask, engine, "POST", f"/v1.47/containers/{made['Id']}/start")
            removed = ask(engine, "DELETE", f"/v1.47/containers/{made['Id']}?force=1")
            assert removed[0] == 204, removed
            assert starting.result()[0] in (204, 404, 409)
            assert ask(engine, "GET", f"/v1.47/containers/{made['Id']}/json")[0] == 404


def test_who_asks_to_end_three_times_gets_the_terminal_back(engine: Daemon) -> None:
    script = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done"
    command = [WHERRY, "--host", engine.host, "run", "--name", "deaf", "bb", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            for asked in range(3):
                client.send_signal(signal.SIGINT)
                if asked < 2:
                    assert client.stdout.readline() == "no\n"
            _, errors = client.communicate(timeout=60)
        finally:
            client.kill()
            client.wait()
            left = state(engine, "deaf")
            engine.run("rm", "-f", "deaf")
    assert (client.returncode, errors, left) == (1, "\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n", "running")


# --- health


def health(engine: Daemon, name: str) -> tuple[str, int]:
    found = json.loads(engine.out("inspect", name, "-f", "{{json .State.Health}}"))
    return found["Status"], len(found["Log"])


def test_a_paused_container_is_not_healthy_and_its_probes_are_remembered_over_a_restart(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "probed", "--health-cmd", "true", "--health-interval", "50ms", "bb", "sleep", "1000")
    try:
        until(lambda: health(engine, "probed") == ("healthy", 5))
        engine.run("pause", "probed")
        assert health(engine, "probed") == ("unhealthy", 5)
        engine.run("unpause", "probed")
        until(lambda: health(engine, "probed")[0] == "healthy")
        engine.run("update", "--restart", "no", "probed")
        engine.run("stop", "-t", "0", "probed")
        engine.run("start", "probed")
        assert health(engine, "probed")[1] == 5
    finally:
        engine.run("rm", "-f", "probed")


# --- exec


def test_an_exec_that_waits_for_its_start_is_refused_where_its_container_does_not_run(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "host", "bb", "sleep", "1000")
    try:
        ident = engine.out("inspect", "-f", "{{.Id}}", "host")
        _, made = ask(engine, "POST", "/v1.47/containers/host/exec", {"Cmd": ["true"], "AttachStdout": True, "DetachKeys": "ctrl-x"})
        engine.run("pause", "host")
        status, answer = ask(engine, "POST", f"/v1.47/exec/{made['Id']}/start", {})
        assert (status, answer["message"]) == (409, f"Container {ident} is paused, unpause the container before exec")
        assert ask(engine, "GET", f"/v1.47/exec/{made['Id']}/json")[1]["DetachKeys"] == "GA=="
        engine.run("unpause", "host")
        engine.run("stop", "-t", "0", "host")
        status, answer = ask(engine, "POST", f"/v1.47/exec/{made['Id']}/start", {})
        assert (status, answer["message"]) == (409, f"container {ident} is not running")
    finally:
        engine.run("rm", "-f", "host")


def test_an_exec_that_never_began_does_not_die(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "host", "bb", "sleep", "1000")
    try:
        since = time.time()
        relative = engine.run("exec", "-w", "rel", "host", "true", check=False)
        assert (relative.code, relative.out) == (128, "OCI runtime exec failed: exec failed: Cwd must be an absolute path\r\n")
        assert engine.run("exec", "host", "nope", check=False).code == 127
        assert [action for action in happened(engine, "host", since) if action.startswith("exec_")] == [
            *("exec_create: true", "exec_start: true", "exec_create: nope", "exec_start: nope")
        ]
        wrong = engine.run("exec", "-u", "4294967296", "host", "true", check=False)
        assert (wrong.code, wrong.err) == (1, "Error response from daemon: uids and gids must be in range 0-2147483647\n")
    finally:
        engine.run("rm", "-f", "host")


# --- what Docker takes, or refuses


def test_a_stop_signal_without_a_number_of_the_kernels_is_taken_and_the_container_can_be_stopped(engine: Daemon) -> None:
    start(engine, "odd", "--stop-signal", "99")
    try:
        engine.run("pause", "odd")
        engine.run("stop", "-t", "30", "odd")
        assert (state(engine, "odd"), state(engine, "odd", "ExitCode")) == ("exited", "3")
    finally:
        engine.run("rm", "-f", "odd")


@pytest.mark.skipif(not os.path.exists("/sys/fs/cgroup/cpu"), reason="on version 2 any number of shares becomes a weight")
@pytest.mark.parametrize(
    ("shares", "problem"), [("1", "minimum allowed cpu-shares is 2"), ("300000", "maximum allowed cpu-shares is 262144")]
)
def test_more_or_less_shares_than_the_kernel_knows_are_refused(engine: Daemon, shares: str, problem: str) -> None:
    refused = engine.run("run", "--rm", "--cpu-shares", shares, "bb", "true", check=False)
    assert refused.code == 125
    assert f"error during container init: the {problem}\n" in refused.err


def test_a_limit_of_kernel_memory_is_passed_over(engine: Daemon) -> None:
    done = engine.run("run", "--rm", "--kernel-memory", "10m", "bb", "echo", "runs")
    assert (done.out, done.err) == ("runs\n", "")


# --- restart, and --rm


def test_a_restart_is_not_the_end_that_removes_a_container(engine: Daemon) -> None:
    engine.run("run", "-d", "--rm", "--name", "stays", "-v", "/data", "bb", "sleep", "1000")
    try:
        engine.run("exec", "stays", "touch", "/data/kept")
        assert engine.out("restart", "-t", "0", "stays") == "stays"
        assert state(engine, "stays") == "running"
        engine.run("exec", "stays", "test", "-e", "/data/kept")
        engine.run("kill", "stays")
        until(lambda: not engine.out("ps", "-aq", "--filter", "name=stays"))
    finally:
        engine.run("rm", "-f", "stays", check=False)


def test_the_name_of_a_container_with_dash_rm_that_does_not_start_is_free_at_once(engine: Daemon) -> None:
    for _ in range(5):
        _, made = ask(
            engine, "POST", "/v1.47/containers/create?name=brief", {"Image": "bb", "Cmd": ["nope"], "HostConfig": {"AutoRemove": True}}
        )
        assert ask(engine, "POST", f"/v1.47/containers/{made['Id']}/start")[0] == 400
        assert ask(engine, "GET", f"/v1.47/containers/{made['Id']}/json")[0] == 404


def test_a_container_whose_network_is_gone_says_that_it_cannot_be_restarted(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "donor", "bb", "sleep", "1000")
    engine.run("run", "-d", "--name", "guest", "--network", "container:donor", "--pid", "container:donor", "bb", "sleep", "1000")
    try:
        status, answer = ask(engine, "POST", "/v1.47/networks/bridge/connect", {"Container": "guest"})
        words = "container sharing network namespace with another container or host cannot be connected to any other network"
        assert (status, answer["message"]) == (403, words)
        ident = engine.out("inspect", "-f", "{{.Id}}", "donor")
        engine.run("rm", "-f", "donor")
        failed = engine.run("restart", "-t", "0", "guest", check=False)
        problem = f"joining network namespace of container: No such container: {ident}"
        assert failed.err == f"Error response from daemon: Cannot restart container guest: {problem}\n"
        assert (state(engine, "guest", "ExitCode"), state(engine, "guest", "Error")) == ("137", problem)
    finally:
        engine.run("rm", "-f", "donor", "guest", check=False)


def test_a_live_sample_that_is_one_shot_is_refused(engine: Daemon) -> None:
    ident = engine.out("create", "bb", "true")
    status, answer = ask(engine, "GET", f"/v1.47/containers/{ident}/stats?one-shot=1")
    assert (status, answer["message"]) == (400, "cannot have stream=true and one-shot=true")
    engine.run("rm", ident)


# --- cp


@contextmanager
def ended_untold(engine: Daemon, *words: str) -> Iterator[str]:
    """A container whose program has ended, of which the daemon hears when this is left."""
    ident = engine.out("run", "-d", "bb", *words)
    pid = int(engine.out("inspect", "-f", "{{.State.Pid}}", ident))
    monitor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    try:
        os.kill(monitor, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
            yield ident
        finally:
            os.kill(monitor, signal.SIGCONT)
    except BaseException:
        engine.run("rm", "-f", ident)
        raise


def test_copying_goes_on_where_the_container_ends_meanwhile(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("whole")
    with ThreadPoolExecutor(1) as pool:
        with ended_untold(engine, "sleep", "1000") as ident:
            copying = pool.submit(engine.run, "cp", str(tmp_path / "file"), f"{ident}:/tmp/file")
            wait([copying], timeout=1)
        copying.result()
    engine.run("cp", f"{ident}:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "whole"
    engine.out("rm", ident)


def test_a_start_just_after_the_end_starts_the_container_again(engine: Daemon) -> None:
    with ThreadPoolExecutor(1) as pool:
        with ended_untold(engine, "sleep", "1000") as ident:
            starting = pool.submit(ask, engine, "POST", f"/v1.47/containers/{ident}/start")
            wait([starting], timeout=0.5)
        assert starting.result()[0] == 204
    assert state(engine, ident) == "running"
    engine.out("rm", "-f", ident)


@pytest.mark.parametrize("path", ["/etc/passwd/", "/etc/passwd/.", "/bin/sh/", "/etc/passwd/x"])
def test_what_is_no_directory_cannot_be_copied_as_one(engine: Daemon, path: str) -> None:
    ident = engine.out("create", "bb", "true")
    engine.run("cp", "-", f"{ident}:/", stdin=_archive("etc/passwd"))
    status, answer = ask(engine, "GET", f"/v1.47/containers/{ident}/archive?path={path}")
    engine.out("rm", ident)
    assert (status, answer["message"]) == (500, f"lstat {path}: not a directory")


def test_a_missing_file_is_told_with_the_name_that_the_client_gave_the_container(engine: Daemon) -> None:
    ident = engine.out("create", "bb", "true")
    status, answer = ask(engine, "GET", f"/v1.47/containers/{ident[:20]}/archive?path=/nope")
    engine.out("rm", ident)
    assert (status, answer["message"]) == (404, f"Could not find the file /nope in container {ident[:20]}")


def _archive(name: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return made.getvalue()


def test_proxies_of_the_clients_configuration_are_for_new_containers_and_not_for_execs(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"proxies":{"default":{"httpProxy":"http://p:1"}}}')
    client = ("--config", str(tmp_path))
    assert "HTTP_PROXY=http://p:1" in engine.out(*client, "run", "--rm", "bb", "env").split("\n")
    engine.run("run", "-d", "--name", "unproxied", "bb", "sleep", "1000")
    try:
        assert "proxy" not in engine.out(*client, "exec", "unproxied", "env").lower()
    finally:
        engine.run("rm", "-f", "unproxied")
