"""What bootstrap decides before any package is fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.cli import apt_sources
from wherry.cli.commands import bootstrap
from wherry.cli.flags import Failure, parse
from wherry.cli.program import Program


def plan_for(kind: str, scratch: str) -> bootstrap.Plan:
    return bootstrap.Plan(kind, "bookworm", [apt_sources.Source(["http://m"], ["bookworm"], ["main"], {})], scratch, print)


@pytest.mark.parametrize(
    ("kind", "version", "names"),
    [
        ("debian", "", ["debian:latest", "debian:bookworm"]),
        ("node", "18.20.4", ["node:latest", "node:18"]),
        ("python", "3.11.2", ["python:latest", "python:3", "python:3.11"]),
        ("node", "", ["node:latest"]),
    ],
)
def test_images_get_the_names_people_write(kind: str, version: str, names: list[str]) -> None:
    assert bootstrap._names(kind, "bookworm", version) == names


@pytest.mark.parametrize(("written", "version"), [("18.20.4+dfsg-1~deb12u1", "18.20.4"), ("1:3.11.2-1+b1", "3.11.2"), ("", "")])
def test_version_is_the_upstream_one(tmp_path: os.PathLike[str], written: str, version: str) -> None:
    plan = plan_for("node", str(tmp_path))
    plan.write("version", written.encode())
    assert bootstrap._version(plan) == version


def test_missing_keyring_falls_back_to_that_of_debian(tmp_path: os.PathLike[str]) -> None:
    assert plan_for("debian", str(tmp_path)).keyring == bootstrap.DEBIAN_KEYRING


def test_unknown_kind_is_told_with_those_there_are() -> None:
    with pytest.raises(Failure, match="no recipe for fedora: choose one of debian, node, python"):
        bootstrap.run(parse(bootstrap.COMMAND, "bootstrap", Program({}, set()), ["fedora"]))


def test_failing_program_ends_the_stream_with_what_it_said(tmp_path: os.PathLike[str]) -> None:
    pieces = bootstrap._stream(plan_for("debian", str(tmp_path)), ["sh", "-c", "echo part; echo reason >&2; exit 3"])
    assert next(pieces) == b"part\n"
    with pytest.raises(Failure, match=r"sh failed with exit code 3:\nreason"):
        next(pieces)


@pytest.mark.root
def test_what_the_program_mounts_is_not_left_on_the_host(tmp_path: Path) -> None:
    script = 'mount -t tmpfs x "$TMPDIR" && grep -c "$TMPDIR" /proc/self/mountinfo'
    assert list(bootstrap._stream(plan_for("debian", str(tmp_path)), ["sh", "-c", script])) == [b"1\n"]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
