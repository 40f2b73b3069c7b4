"""login and logout, as far as they go without a daemon."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.cli.commands.login import server_name
from wherry.cli.config import HUB, ConfigError, Credentials
from wherry.cli.main import main
from wherry.cli.program import Program
from wherry.cli.registry_auth import all_auth_headers, auth_headers, known_credentials


@pytest.mark.parametrize(
    ("text", "server"), [("", HUB), ("docker.io", HUB), ("localhost:5000", "localhost:5000"), ("https://r.example/v2/", "r.example")]
)
def test_servers_are_known_by_their_host(text: str, server: str) -> None:
    assert server_name(text) == server


def test_logout_forgets_and_is_quiet_about_the_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"auths":{"localhost:1":{"auth":"dTpw"}}}')
    assert main(["--config", str(tmp_path), "logout", "localhost:1"]) == 0
    assert main(["--config", str(tmp_path), "logout"]) == 0
    assert capsys.readouterr().out == f"Removing login credentials for localhost:1\nRemoving login credentials for {HUB}\n"
    assert json.loads((tmp_path / "config.json").read_text()) == {"auths": {}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Error: Cannot perform an interactive login from a non TTY device\n"),
        (["--password-stdin"], "the --password-stdin option requires --username to be set\n"),
        (["-u", "u", "-p", "p", "--password-stdin"], "conflicting options: cannot specify both --password and --password-stdin\n"),
        (["-u", "u", "-p", ""], "password is empty\n"),
        (["-u", "", "--password-stdin"], "username is empty\n"),
        (["-u", "u", "--password-stdin"], "Error: Cannot perform an interactive login from a non TTY device\n"),
    ],
)
def test_incomplete_credentials_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert main(["--config", str(tmp_path), "login", *words]) == 1
    assert capsys.readouterr().err == message


def test_a_configuration_that_can_not_be_read_is_told_once_and_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"auths":{"localhost:1":{"auth":"dTpw"}')
    program = Program({"config": str(tmp_path)}, set())
    assert program.config() == {}
    assert known_credentials(program, "localhost:1") is None
    told = capsys.readouterr().err
    assert told.startswith(f"WARNING: Error parsing config file ({path}): ")
    assert told.count("\n") == 1
    with pytest.raises(ConfigError, match=r"cannot write .*: what is in it now can't be read"):
        program.stored_config().store(Credentials("localhost:1", "u", "p"))
    assert path.read_text() == '{"auths":{"localhost:1":{"auth":"dTpw"}'


def test_a_helper_that_fails_keeps_nobody_from_pulling_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"credsStore":"no-such"}')
    program = Program({"config": str(tmp_path)}, set())
    missing = 'err: exec: "docker-credential-no-such": executable file not found in $PATH, out: ``'
    assert auth_headers(program, "localhost:1") == {"X-Registry-Auth": "e30="}
    assert all_auth_headers(program) == {"X-Registry-Config": "e30="}
    assert capsys.readouterr().err == f"WARNING: error getting credentials - {missing}\n"
    with pytest.raises(ConfigError, match="error getting credentials"):  # a push needs them
        auth_headers(program, "localhost:1", needed=True)
    assert main(["--config", str(tmp_path), "logout", "localhost:1"]) == 0
    told = [f"{key}: error erasing credentials - {missing}\n" for key in ("localhost:1", "http://localhost:1", "https://localhost:1")]
    assert capsys.readouterr().err == "WARNING: could not erase credentials:\n" + "".join(told)


def test_credentials_of_the_environment_are_used_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Program({"config": str(tmp_path)}, set())
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", '{"auths":{"localhost:1":{"auth":"dTpw"}}}')
    assert (known := known_credentials(program, "localhost:1")) is not None
    assert (known.username, known.password) == ("u", "p")
    assert main(["--config", str(tmp_path), "logout", "localhost:1"]) == 0
    assert capsys.readouterr().err.startswith("\n Warn -> DOCKER_AUTH_CONFIG is set and takes precedence.\n")
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "{")
    assert known_credentials(program, "localhost:1") is None
    assert capsys.readouterr().err.startswith("Failed to create credential store from DOCKER_AUTH_CONFIG:  ")


@pytest.mark.parametrize(
    ("server", "first"), [("localhost:1", "Username: "), ("", "Log in to Docker Hub with your user name and password.")]
)
def test_a_terminal_is_asked_for_name_and_password(server: str, first: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [
        sys.executable,
        "-c",
        "import sys; from wherry.cli.main import main; sys.exit(main())",
        "--config",
        str(tmp_path),
        "login",
        *([server] if server else []),
    ]
    with open(ours, "r+b", buffering=0) as terminal:
        with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
            os.close(theirs)
            try:
                shown = b""
                for ending, answer in ((b"Username: ", b"alice\n"), (b"Password: ", b"")):
                    while not shown.endswith(ending):
                        shown += os.read(terminal.fileno(), 1 << 12)
                    terminal.write(answer)
            finally:
                process.kill()
    assert shown.decode().splitlines()[0].startswith(first)
