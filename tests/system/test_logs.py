"""Logs of containers through the whole engine: drivers, rotation, following."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.conftest import WHERRY, Daemon

COUNT = "i=0; while [ $i -lt 6000 ]; do echo line $i; i=$((i+1)); done"
LINES = [f"line {number}" for number in range(6000)]


def folder(engine: Daemon, name: str) -> Path:
    return engine.root / "data/containers" / engine.out("inspect", name, "-f", "{{.Id}}")


def test_the_local_driver_writes_its_own_files_and_logs_reads_them(engine: Daemon) -> None:
    engine.run("run", "--name", "localised", "--log-driver", "local", "bb", "sh", "-c", "echo out; echo err >&2; printf end")
    try:
        assert (folder(engine, "localised") / "local-logs/container.log").read_bytes()[4:12] == b"\x0a\x06stdout"
        assert engine.out("inspect", "localised", "-f", "{{.LogPath}}") == ""
        shown = engine.run("logs", "localised")
        assert (shown.out, shown.err) == ("out\nend", "err\n")
        assert engine.out("logs", "--details", "-n", "1", "localised") == "end"
        assert engine.out("logs", "-t", "-n", "1", "localised").endswith("Z end")
    finally:
        engine.run("rm", "localised")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_follower_sees_every_line_through_rotation_and_packing(engine: Daemon, driver: str) -> None:
    options = ("--log-driver", driver, "--log-opt", "max-size=20k", "--log-opt", "max-file=50", "--log-opt", "compress=true")
    engine.run("create", "--name", f"turning-{driver}", *options, "bb", "sh", "-c", f"sleep 0.3; {COUNT}")
    try:
        engine.run("start", f"turning-{driver}")
        command = [WHERRY, "-H", engine.host, "logs", "-f", f"turning-{driver}"]
        followed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert followed.stdout.splitlines() == LINES
        assert engine.out("logs", f"turning-{driver}").splitlines() == LINES
        assert engine.out("logs", "-n", "4000", f"turning-{driver}").splitlines() == LINES[-4000:]
        assert [path for path in folder(engine, f"turning-{driver}").rglob("*.gz")]
    finally:
        engine.run("rm", "-f", f"turning-{driver}")


def test_follow_ends_with_the_program_also_when_it_is_started_again(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "again", "--restart", "always", "bb", "sh", "-c", "echo run; sleep 0.3")
    try:
        assert set(engine.run("logs", "-f", "again", timeout=20).out.split()) == {"run"}
    finally:
        engine.run("rm", "-f", "again")


def test_attributes_stand_in_the_file_and_in_details(engine: Daemon) -> None:
    options = ("-e", "FOO=a,b", "-l", "com.x=1", "--log-opt", "env=FOO", "--log-opt", "labels-regex=^com", "--log-opt", "tag={{.Name}}")
    engine.run("run", "--name", "labelled", *options, "bb", "echo", "hello")
    try:
        log = Path(engine.out("inspect", "labelled", "-f", "{{.LogPath}}")).read_text()
        assert json.loads(log)["attrs"] == {"FOO": "a,b", "com.x": "1", "tag": "labelled"}
        assert engine.out("logs", "--details", "labelled") == "FOO=a%2Cb,com.x=1,tag=labelled hello"
    finally:
        engine.run("rm", "labelled")


def test_a_value_that_means_nothing_fails_the_start_in_dockers_words(engine: Daemon) -> None:
    engine.run("create", "--name", "mistaken", "--log-opt", "max-size=bogus", "bb", "true")
    try:
        started = engine.run("start", "mistaken", check=False)
        words = "failed to create task for container: failed to initialize logging driver: invalid size: 'bogus'"
        assert started.code == 1
        assert f"Error response from daemon: {words}" in started.err
        assert engine.out("inspect", "mistaken", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}") == f"created 128 {words}"
    finally:
        engine.run("rm", "mistaken")
