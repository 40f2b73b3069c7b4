"""What bootstrap decides before any package is fetched."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from wherry.cli import apt_sources
from wherry.cli.commands import bootstrap
from wherry.cli.flags import Failure, UsageFailure, parse
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_and_undoes_it(tmp_path: Path, number: signal.Signals) -> None:
    ends_us = ["sh", "-c", f"kill -{number} {os.getpid()}; exec sleep 60"]
    with pytest.raises(Failure, match=f"ended by {number.name}") as ended, bootstrap._ended_by_signals():
        for _ in bootstrap._stream(plan_for("debian", str(tmp_path)), ends_us):
            pass
    assert ended.value.status == 128 + number
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_name_that_is_none_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UsageFailure, match="must be lowercase"):
        parse(bootstrap.COMMAND, "bootstrap", Program({"config": ""}, set()), ["debian", "-t", "BAD"])
