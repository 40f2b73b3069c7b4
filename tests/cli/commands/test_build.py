"""The build command's own part: which Dockerfile, which context, which query."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
from pathlib import Path

import pytest

from wherry.cli.commands import build
from wherry.cli.flags import Failure, HelpWanted, UsageFailure, parse
from wherry.cli.program import Program
from wherry.spec.reference import parse as parse_reference

Prepared = tuple[str, dict[str, bytes]]


def prepared(root: Path, dockerfile: str = "") -> Prepared:
    """The Dockerfile's name in the context, and the files that are sent."""
    name, pieces = build._prepare(str(root), dockerfile)
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            found[member.name] = content.read() if content is not None else b""
    return name, found


def test_a_compressed_context_is_gzip() -> None:
    assert gzip.decompress(b"".join(build._compressed([b"one", memoryview(b"two")]))) == b"onetwo"


def test_dockerfile_of_the_context_is_found_in_either_case(tmp_path: Path) -> None:
    (tmp_path / "dockerfile").write_text("FROM a")
    assert prepared(tmp_path) == ("dockerfile", {"dockerfile": b"FROM a"})
    (tmp_path / "Dockerfile").write_text("FROM b")
    assert prepared(tmp_path)[0] == "Dockerfile"


def test_ignored_dockerfile_and_ignore_file_are_still_sent(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a")
    (tmp_path / ".dockerignore").write_text("*\n")
    (tmp_path / "secret").write_text("x")
    assert sorted(prepared(tmp_path)[1]) == [".dockerignore", "Dockerfile"]


def test_dockerfile_from_elsewhere_travels_under_a_hidden_name(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "f").write_text("x")
    (context / ".dockerignore").write_text("*.log")
    (tmp_path / "Other").write_text("FROM other")
    name, found = prepared(context, str(tmp_path / "Other"))
    assert found[name] == b"FROM other"
    assert found[".dockerignore"] == f"*.log\n{name}\n".encode()
    assert set(found) == {"f", name, ".dockerignore"}


def test_ignore_file_named_after_the_dockerfile_wins(tmp_path: Path) -> None:
    (tmp_path / "My").write_text("FROM a")
    (tmp_path / ".dockerignore").write_text("a")
    (tmp_path / "My.dockerignore").write_text("b")
    (tmp_path / "a").write_text("")
    (tmp_path / "b").write_text("")
    name, found = prepared(tmp_path, str(tmp_path / "My"))
    assert name == "My"
    assert "a" in found
    assert "b" not in found


@pytest.mark.parametrize(
    ("path", "dockerfile", "message"),
    [
        ("nosuch", "", 'unable to prepare context: path ".*nosuch" not found'),
        (
            "",
            "nosuch",
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat .*nosuch: no such file or directory",
        ),
        ("file", "", "unable to prepare context: context must be a directory: .*file"),
    ],
)
def test_missing_parts_are_named_as_docker_names_them(tmp_path: Path, path: str, dockerfile: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=message):
        build._prepare(str(tmp_path / path), str(tmp_path / dockerfile) if dockerfile else "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--secret", "id=a", "."], "--secret is not supported"),
        (["--output", "x", "."], "--output is not supported"),
        (["--cgroup-parent=/x", "."], "--cgroup-parent is not supported"),
        (["--ssh=default", "."], "--ssh is not supported"),
        (["--progress", "rawjson", "."], "not supported: choose one of auto, plain, quiet"),
        (["--progress", "tty", "."], "not supported: choose one of auto, plain, quiet"),
        (["-t", "BAD", "."], 'invalid argument "BAD" for "-t, --tag" flag: invalid reference format'),
        (["--add-host", "bad", "."], 'bad format for add-host: "bad"'),
        (["--label", "=x", "."], "invalid label '=x': empty name"),
        (["-m", "bad", "."], "invalid size: 'bad'"),
        ([], "requires 1 argument"),
    ],
)
def test_flags_that_cannot_be_carried_out_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(Failure, match=message):
        parse(build.COMMAND, "build", Program({"config": ""}, set()), words)


def test_query_says_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "1")
    words = "-t a:1 -t b --build-arg A=b --build-arg FROM_HERE --build-arg NOWHERE --label l=m --add-host x=1.2.3.4 --ulimit nofile=1:2 ."
    program = Program({"config": str(tmp_path), "host": "unix:///x", "tls": False, "tlsverify": False}, {"host"})
    query = build._query(parse(build.COMMAND, "build", program, words.split()))
    assert query["t"] == ["a:1", "b"]
    assert query["buildargs"] == {"A": "b", "FROM_HERE": "1", "NOWHERE": None}
    assert (query["labels"], query["extrahosts"], query["rm"]) == ({"l": "m"}, ["x:1.2.3.4"], "1")
    assert json.loads(query["ulimits"]) == [{"Name": "nofile", "Soft": 1, "Hard": 2}]


def test_help_and_unknown_flags_come_before_the_context() -> None:
    program = Program({"config": ""}, set())
    with pytest.raises(HelpWanted):
        parse(build.COMMAND, "build", program, [".", "--help"])
    with pytest.raises(UsageFailure, match="unknown flag: --bogus"):
        parse(build.COMMAND, "build", program, [".", "--bogus"])


def test_a_name_that_is_not_looked_at_any_further_is_one_the_parser_takes() -> None:
    texts = ["".join(letters) for length in range(1, 6) for letters in itertools.product("aA0é.:/-", repeat=length)]
    simple = [text for text in texts if build._is_simple(text)]
    assert {"a", "a0", "a/0", "a:A", "0/a:0"} <= set(simple)
    for text in simple:
        parse_reference(text)
