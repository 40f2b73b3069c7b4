"""The command line of an OCI runtime."""

from __future__ import annotations

import pytest

from wherry.bundle import commandline
from wherry.bundle.failures import Failure


def test_flags_before_and_after_the_command():
    command = commandline.parse(
        ["--root", "/r", "--log=/l", "--log-format", "json", "create", "-b", "/b", "--pid-file=/p", "c1", "--no-pivot"]
    )
    assert (command.verb, command.settings["root"], command.settings["log"], command.arguments) == ("create", "/r", "/l", ("c1",))
    assert (command.options["bundle"], command.options["pid-file"], command.options["no-pivot"]) == ("/b", "/p", True)


def test_the_words_of_an_exec_are_its_own():
    command = commandline.parse(["exec", "-e", "A=1", "--env", "B=2", "-t", "c1", "ls", "-l", "--", "x"])
    assert (command.arguments, command.options["env"], command.options["tty"]) == (("c1", "ls", "-l", "--", "x"), ["A=1", "B=2"], True)


def test_kill_takes_its_signal_and_all_in_any_place():
    for words in (["kill", "--all", "c1", "9"], ["kill", "c1", "9", "--all"]):
        command = commandline.parse(words)
        assert (command.arguments, command.options["all"]) == (("c1", "9"), True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fly"], "no such command: fly"),
        (["checkpoint", "x"], "checkpoint is not supported"),
        (["create", "--fly", "x"], "create: no such flag: --fly"),
        (["create"], '"create" takes ID: 0 given'),
        (["create", "x", "--bundle"], "--bundle needs a value"),
        (["run", "--preserve-fds", "x", "c"], "--preserve-fds is a number, not x"),
        (["--debug=maybe", "list"], "--debug is true or false, not maybe"),
    ],
)
def test_what_is_wrong_is_named(words, text):
    with pytest.raises(Failure, match=text):
        commandline.parse(words)


@pytest.mark.parametrize(("words", "verb"), [([], "help"), (["--version"], "version"), (["-v"], "version"), (["run", "--help"], "help")])
def test_help_and_version(words, verb):
    assert commandline.parse(words).verb == verb
    assert "--preserve-fds" in commandline.help_text("run")
    assert "create a container" in commandline.help_text()
