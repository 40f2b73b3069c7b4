"""What takes the disk, and what prunes give back: told exactly, before and after."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar, make_daemon, running
from tests.security.archives import member, tar_with
from tests.system.accounting import tar_of
from tests.system.talk import UnixConnection
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
DOCKERFILE = b"FROM bb\nRUN echo hello > /x\nRUN dd if=/dev/zero of=/big bs=1k count=300\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(make_daemon(), image=False) as daemon:
        yield daemon


def furnish(daemon: Daemon) -> None:
    """Something of every kind; nothing uses the image but a stopped container."""
    daemon.run("import", "-", "bb", stdin=busybox_tar())
    daemon.run("build", "-q", "-t", "built", "-", stdin=DOCKERFILE)
    daemon.run("run", "--name", "one", "-v", "/anonymous", "built", "sh", "-c", "echo 12345 > /f; echo 678 > /anonymous/a")
    daemon.run("network", "create", "net")


def test_every_byte_of_the_data_root_is_accounted_for(daemon: Daemon) -> None:
    furnish(daemon)
    told = json.loads(daemon.out("system", "df", "--on-disk", "--format", "json"))
    du = subprocess.run(["du", "-s", "-B1", str(daemon.root / "data")], check=True, capture_output=True, text=True)
    assert told["Total"] == sum(part["Size"] for part in told["Parts"]) == int(du.stdout.split()[0])
    parts = {part["Name"]: part for part in told["Parts"]}
    assert parts["image layers"]["Objects"] == 3
    assert parts["container layers"]["Objects"] == 1
    assert "layers of no image" not in parts


def test_a_dry_run_tells_what_a_prune_does_and_does_nothing(daemon: Daemon) -> None:
    arguments = ("system", "prune", "--all", "--volumes", "--force")
    before = daemon.out("system", "df", "--on-disk", "--format", "json")
    told = daemon.out(*arguments, "--dry-run")
    assert daemon.out("system", "df", "--on-disk", "--format", "json") == before
    done = daemon.out(*arguments)
    assert _blocks(told.replace("Would remove", "Deleted")) == _blocks(done)
    assert told.rpartition(": ")[2] == done.rpartition(": ")[2] == "2.29MB"
    parts = {part["Name"] for part in json.loads(daemon.out("system", "df", "--on-disk", "--format", "json"))["Parts"]}
    assert not parts & {"image layers", "build cache", "container layers", "layers of no image"}
    assert daemon.out("system", "fsck") == "Nothing is wrong."


def _blocks(text: str) -> list[str]:
    """What is listed, without the line about space."""
    return [block.strip().lower() for block in text.split("\n\n")[:-1]]


@pytest.mark.parametrize("kind", ["container", "image", "network", "volume", "builder"])
def test_each_prune_has_a_dry_run(daemon: Daemon, kind: str) -> None:
    furnish(daemon)
    options = ["--all"] if kind in ("image", "volume", "builder") else []
    told = daemon.out(kind, "prune", "--dry-run", *options)
    done = daemon.out(kind, "prune", "--force", *options)
    listed = [line for line in told.splitlines() if line and not line.startswith("Would ")]
    assert listed == [line for line in done.splitlines() if line and not line.startswith(("Deleted ", "Total "))]
    if kind != "network":
        assert told.rpartition(": ")[2] == done.rpartition(": ")[2]
    daemon.run("system", "prune", "--all", "--volumes", "--force")


def test_a_layer_that_is_removed_while_it_is_saved_goes_when_that_ends(daemon: Daemon) -> None:
    def parts() -> set[str]:
        return {part["Name"] for part in json.loads(daemon.out("system", "df", "--on-disk", "--format", "json"))["Parts"]}

    daemon.run("import", "-", "saved", stdin=tar_with(member("noise", data=random.Random(5).randbytes(20_000_000))))
    connection = UnixConnection(daemon.socket_path)
    connection.request("GET", "/images/saved/get")
    answer = connection.getresponse()
    answer.read(1)
    daemon.run("rmi", "saved")
    assert "layers of no image" in parts()
    assert len(answer.read()) > 20_000_000
    connection.close()
    until(lambda: "layers of no image" not in parts())


@pytest.mark.parametrize("name", ["long" * 50, "back\\slash, colon: and blank"])
def test_a_data_root_may_have_any_path(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    with running(make_daemon("--data-root", str(place))) as daemon:
        daemon.run("build", "-q", "-t", "built", "-", stdin=tar_of({"Dockerfile": b"FROM bb\nRUN echo built > /file\nCOPY Dockerfile /\n"}))
        assert daemon.out("run", "--rm", "--net", "none", "-v", "data:/data", "built", "cat", "/file") == "built"
        assert daemon.out("system", "fsck") == "Nothing is wrong."
        assert (place / "volumes/data/_data").is_dir()
