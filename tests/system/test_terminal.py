"""Containers at a person's terminal: -it, resizing, detaching, coming back."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from tests.conftest import WHERRY, Daemon
from tests.system.terminal import Terminal
from tests.system.waiting import until

pytestmark = pytest.mark.root


def status(engine: Daemon, name: str) -> str:
    return engine.out("inspect", name, "-f", "{{.State.Status}}")


def test_a_session_shows_a_prompt_answers_and_returns_the_shells_code(engine: Daemon) -> None:
    with Terminal(engine, "run", "-it", "--rm", "bb", "sh") as terminal:
        terminal.expect("# ")
        terminal.type("tty; echo $((6*7))\n")
        answer = terminal.expect("42")
        assert "/dev/pts/0" in answer
        terminal.type("exit 3\n")
        assert terminal.code() == 3
        assert terminal.settings() == list(terminal.before)


def test_the_terminal_has_the_windows_size_from_the_start_and_follows_it(engine: Daemon) -> None:
    script = "stty size; trap 'stty size' WINCH; echo ready; while true; do sleep 0.05; done"
    with Terminal(engine, "run", "-it", "--rm", "--name", "window", "bb", "sh", "-c", script, rows=33, columns=101) as terminal:
        assert "33 101" in terminal.expect("ready")
        terminal.resize(44, 120)
        terminal.expect("44 120")
        engine.run("kill", "window")
        assert terminal.code() == 137


def test_ctrl_c_reaches_the_program_and_not_the_client(engine: Daemon) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"  # a long sleep might begin after the key
    with Terminal(engine, "run", "-it", "--rm", "bb", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("caught")
        assert terminal.code() == 9


def test_ctrl_p_ctrl_q_leaves_the_container_running_and_attach_comes_back(engine: Daemon) -> None:
    with Terminal(engine, "run", "-it", "--name", "left", "bb", "sh") as terminal:
        terminal.expect("# ")
        terminal.type("kept=here\n")
        terminal.expect("# ")
        terminal.type("\x10\x11")
        assert terminal.code() == 0
        assert terminal.settings() == list(terminal.before)
    assert status(engine, "left") == "running"
    with Terminal(engine, "attach", "left") as terminal:
        terminal.type("echo still $kept\n")
        terminal.expect("still here")
        terminal.type("exit 5\n")
        assert terminal.code() == 5
    engine.run("rm", "left")


def test_detach_keys_of_ones_own_are_taken_in_place_of_the_usual_ones(engine: Daemon) -> None:
    with Terminal(engine, "run", "-it", "--name", "keys", "--detach-keys", "ctrl-x,q", "bb", "cat") as terminal:
        terminal.type("\x10\x11hello\n")
        terminal.expect("hello")
        terminal.type("\x18q")
        assert terminal.code() == 0
    assert status(engine, "keys") == "running"
    with Terminal(engine, "exec", "-it", "--detach-keys", "ctrl-x,q", "keys", "cat") as terminal:
        terminal.type("\x18q")
        terminal.expect("read escape sequence")
        assert terminal.code() == 1
    seen = ("events", "--since", "1h", "--until", "0s", "--filter", "container=keys", "--format", "{{.Action}}")
    until(lambda: {"detach", "exec_detach"} <= set(engine.out(*seen).split()))
    engine.run("rm", "-f", "keys")


def test_start_a_i_takes_a_stopped_session_up_again(engine: Daemon) -> None:
    with Terminal(engine, "run", "-it", "--name", "again", "bb", "sh") as terminal:
        terminal.expect("# ")
        terminal.type("exit\n")
        assert terminal.code() == 0
    with Terminal(engine, "start", "-a", "-i", "again") as terminal:
        terminal.type("echo back $((40+2))\n")
        terminal.expect("back 42")
        terminal.type("exit 4\n")
        assert terminal.code() == 4
    engine.run("rm", "again")


def test_exec_it_opens_a_second_terminal_in_a_running_container(engine: Daemon) -> None:
    engine.run("run", "-d", "--name", "host-of-exec", "bb", "sleep", "1000")
    with Terminal(engine, "exec", "-it", "host-of-exec", "sh", rows=30, columns=90) as terminal:
        terminal.expect("# ")
        terminal.type("stty size\n")
        terminal.expect("30 90")
        terminal.type("exit 6\n")
        assert terminal.code() == 6
    assert status(engine, "host-of-exec") == "running"
    engine.run("rm", "-f", "host-of-exec")


def test_several_clients_see_one_terminal(engine: Daemon) -> None:
    engine.run("run", "-dit", "--name", "shared", "bb", "cat")
    with Terminal(engine, "attach", "shared") as one, Terminal(engine, "attach", "shared") as two:
        for name, terminal in (("first", one), ("second", two)):  # an answer of cat's shows that it is attached
            terminal.type(f"{name}\n")
            terminal.expect(name)  # the echo, and then the answer: what the other has typed may come between
            terminal.expect(name)
        one.type("from one\n")
        two.expect("from one")
        two.expect("from one")
        two.type("\x10\x11")
        assert two.code() == 1
        one.type("still there\n")
        one.expect("still there\r\nstill there")
    engine.run("rm", "-f", "shared")


def test_a_terminal_is_refused_where_there_is_none(engine: Daemon) -> None:
    refused = engine.run("run", "-it", "--rm", "bb", "true", stdin=b"", check=False)
    assert refused.code == 1
    assert "the input device is not a TTY" in refused.err


def test_without_a_terminal_signals_are_passed_on_to_the_program(engine: Daemon) -> None:
    script = "trap 'echo got it; exit 12' TERM; echo ready; while true; do sleep 0.05; done"
    command = [WHERRY, "--host", engine.host, "run", "--rm", "bb", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            client.send_signal(signal.SIGTERM)
            output, _ = client.communicate(timeout=60)
        finally:
            client.kill()
    assert output == "got it\n"
    assert client.returncode == 12


def test_what_a_terminal_showed_is_in_the_log(engine: Daemon) -> None:
    engine.run("run", "-dt", "--name", "shown", "bb", "echo", "hello")
    engine.run("wait", "shown")
    assert engine.run("logs", "shown").out == "hello\r\n"
    engine.run("rm", "shown")


def test_signals_to_run_reach_the_program_also_from_a_terminal(engine: Daemon) -> None:
    with Terminal(
        engine, "run", "-it", "--rm", "bb", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    ) as terminal:
        terminal.expect("ready")
        os.kill(terminal.process.pid, signal.SIGTERM)
        assert terminal.code() == 9


def test_closing_the_terminal_leaves_a_detachable_container_running(engine: Daemon) -> None:
    with Terminal(engine, "run", "-it", "--name", "orphan", "bb", "sh") as terminal:
        terminal.expect("# ")
    until(lambda: status(engine, "orphan") == "running")
    engine.run("rm", "-f", "orphan")
