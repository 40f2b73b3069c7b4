"""From words to commands, and what a person reads when they are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.forked import exit_code

from wherry.cli import daemon_start, table
from wherry.cli.flags import Failure
from wherry.cli.help import wrap
from wherry.cli.main import main


def test_aliases_lead_to_the_same_command() -> None:
    assert table.resolve(["container", "list", "-a"]) == ("container ls", ["-a"])
    assert table.resolve(["ps", "-a"]) == ("ps", ["-a"])
    assert table.resolve(["container", "nosuch"]) == ("container", ["nosuch"])


def test_every_row_of_the_table_is_a_command() -> None:
    for path in table.COMMANDS:
        command = table.load(path)
        shorthands = [flag.shorthand for flag in command.flags if flag.shorthand]
        assert command.summary
        assert len(set(shorthands)) == len(shorthands), path


@pytest.mark.parametrize("path", sorted(table.COMMANDS))
def test_every_command_has_help(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    if table.load(path).raw:
        return
    assert main([*path.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage:  wherry {path}")


def test_wrong_words_are_told_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nosuch"]) == 1
    assert capsys.readouterr().err == "wherry: unknown command: wherry nosuch\n\nRun 'wherry --help' for more information\n"
    assert main(["rename", "a"]) == 1
    assert capsys.readouterr().err.startswith("wherry: 'wherry rename' requires 2 arguments\n\nUsage:  wherry rename CONTAINER NEW_NAME\n")
    assert main(["run", "--nope"]) == 125
    assert capsys.readouterr().err.startswith("unknown flag: --nope\n\nUsage:  wherry run [OPTIONS] IMAGE")


def test_commands_of_dockers_that_are_not_there_are_told_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        ("swarm init", "swarm is not supported"),
        ("compose up -d", "use Docker's: DOCKER_HOST=unix:///run/wherry/wherry.sock docker compose"),
        ("buildx bake", "BuildKit's protocol is not spoken: use wherry build"),
    ):
        assert main(words.split()) == 1
        assert capsys.readouterr().err.endswith(f"': {why}\n")


def test_only_root_starts_a_daemon() -> None:
    def as_nobody() -> int:
        os.setuid(65534)
        with pytest.raises(Failure, match=r"^no daemon listens at unix:///nosuch[.]sock, and only root can start one"):
            daemon_start.start("unix:///nosuch.sock")
        return 0

    assert exit_code(as_nobody) == 0


def test_help_of_a_command_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    for words, start in (
        ("help", "Usage:  wherry [OPTIONS] COMMAND"),
        ("help image ls", "Usage:  wherry image ls "),
        ("help image", "Usage:  wherry image C"),
    ):
        assert main(words.split()) == 0
        assert capsys.readouterr().out.startswith(start)


def test_an_absent_daemon_that_was_named_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-H", "unix:///nosuch.sock", "ps"]) == 1
    assert capsys.readouterr().err == "Cannot connect to the Docker daemon at unix:///nosuch.sock. Is the docker daemon running?\n"


def test_texts_wrap_with_an_indent_and_a_little_slop() -> None:
    assert wrap(10, 50, "one two three four five six seven eight nine") == "one two three four five six seven\n          eight nine"


def test_the_installed_command_writes_all_it_has_to_say_and_ends_with_its_status(tmp_path):
    command = [sys.executable, str(Path(__file__).parents[2] / "bin" / "wherry-cold"), "", ""]
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("Wherry version")
    wrong = subprocess.run([*command, "nothing"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "unknown command" in wrong.stderr
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command, "--version"], capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")
