"""The context command on a configuration of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wherry.cli.main import main

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WHERRY_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "WHERRY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*words: str) -> Ran:
        status = main(list(words))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return go


def test_context_is_made_used_listed_and_removed(run: Run, config: Path) -> None:
    made = run("context", "create", "t1", "--description", "hello", "--docker", "host=tcp://1.2.3.4:5")
    assert made == (0, "t1\n", 'Successfully created context "t1"\n')
    assert run("context", "use", "t1") == (0, "t1\n", 'Current context is now "t1"\n')
    assert json.loads((config / "config.json").read_text()) == {"currentContext": "t1"}
    lines = run("context", "ls")[1].splitlines()
    assert lines[2].split() == ["t1", "*", "hello", "tcp://1.2.3.4:5"]
    assert run("context", "rm", "t1") == (1, "", 'context "t1" is in use, set -f flag to force remove\n')
    assert run("context", "rm", "-f", "t1") == (0, "t1\n", "")
    assert run("context", "show") == (0, "default\n", "")


def test_exported_context_comes_back_under_another_name(run: Run, config: Path) -> None:
    (config / "ca").write_text("CA")
    run("context", "create", "t1", "--docker", "host=tcp://h:1,ca=ca,skip-tls-verify=true")
    assert run("context", "export", "t1")[2] == 'Written file "t1.dockercontext"\n'
    assert run("context", "import", "t2", "t1.dockercontext")[0] == 0
    found = json.loads(run("context", "inspect", "t2")[1])[0]
    assert found["Endpoints"] == {"docker": {"Host": "tcp://h:1", "SkipTLSVerify": True}}
    assert found["TLSMaterial"] == {"docker": ["ca.pem"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("create default", '"default" is a reserved context name'),
        ("create x/y", 'context name "x/y" is invalid'),
        ("create t5 --docker bogus=1", "unable to create docker endpoint config: unrecognized config key: bogus"),
        ("create t5 --docker host=foo://", "unable to parse docker host `foo://`"),
        ("rm nosuch", 'context "nosuch" does not exist'),
        ("rm default", 'context "default" cannot be removed'),
        ("use nosuch", 'context "nosuch": context not found'),
        ("import t6 nosuch", "open nosuch: no such file or directory"),
    ],
)
def test_mistakes_are_told_in_docker_words(run: Run, words: str, message: str) -> None:
    status, out, error = run("context", *words.split())
    assert (status, out) == (1, "")
    assert message in error


def test_inspect_of_an_absent_context_still_prints_a_list(run: Run) -> None:
    status, out, error = run("context", "inspect", "nosuch")
    assert (status, out) == (1, "[]\n")
    assert "context not found" in error
