"""login and logout, as far as they go without a daemon."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from wherry.cli.commands.login import server_name
from wherry.cli.config import HUB
from wherry.cli.main import main


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
    ],
)
def test_incomplete_credentials_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["--config", str(tmp_path), "login", *words]) == 1
    assert capsys.readouterr().err == message
