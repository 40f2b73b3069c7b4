"""A full disk: the daemon serves on, ends are recorded, errors name the file, and removing things makes room again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.conftest import Daemon, busybox_tar
from tests.system import accounting, daemons
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def cramped() -> Iterator[Daemon]:
    """A daemon whose data root is a file system of 16 MiB."""
    with daemons.cramped(16) as daemon:
        yield daemon


def fill(daemon: Daemon) -> None:
    """Use every byte of the data root, as a container may."""
    daemon.run("run", "--name", "filler", "--net", "none", "bb", "dd", "if=/dev/zero", "of=/big", "bs=1M", check=False)
    with (daemon.root / "data" / "rest").open("wb", buffering=0) as rest, suppress(OSError):
        while True:
            rest.write(bytes(4096))


def test_ends_are_recorded_exactly_while_the_disk_is_full(cramped: Daemon) -> None:
    cramped.run("run", "-d", "--name", "waiting", "bb", "sh", "-c", "until test -e /tmp/go; do sleep 0.05; done; exit 6")
    cramped.run("run", "-d", "--name", "killed", "bb", "sleep", "1000")
    cramped.run("exec", "waiting", "touch", "/tmp/early")
    fill(cramped)
    assert cramped.run("exec", "waiting", "true").code == 0
    cramped.run("stop", "-t", "0", "killed")
    cramped.run("exec", "waiting", "mv", "/tmp/early", "/tmp/go")
    assert cramped.out("wait", "waiting") == "6"
    assert cramped.out("inspect", "killed", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}") == "exited 137"
    cramped.kill()
    cramped.start()
    assert cramped.out("inspect", "killed", "waiting", "-f", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137\nexited 6"


def test_an_end_while_the_daemon_is_dead_and_the_disk_is_full_is_told_by_the_monitor(cramped: Daemon) -> None:
    cramped.run("run", "-d", "--name", "short", "bb", "sh", "-c", "until test -e /tmp/go; do sleep 0.05; done; exit 9")
    cramped.run("exec", "short", "touch", "/tmp/early")
    fill(cramped)
    cramped.run("exec", "-d", "short", "sh", "-c", "sleep 0.4; mv /tmp/early /tmp/go")
    pid = cramped.out("inspect", "short", "-f", "{{.State.Pid}}")
    cramped.kill()
    until(lambda: not (accounting.PROC / pid).exists())
    cramped.start()
    assert cramped.out("inspect", "short", "-f", "{{.State.Status}} {{.State.ExitCode}}") == "exited 9"


def test_what_needs_room_says_so_and_leaves_nothing_and_removing_makes_room(cramped: Daemon) -> None:
    fill(cramped)
    before = accounting.count(cramped)
    for arguments, data in (
        (("run", "--rm", "bb", "true"), None),
        (("create", "bb", "true"), None),
        (("import", "-", "bb2"), busybox_tar()),
        (("build", "-q", "-"), _context("FROM bb\nRUN echo hi > /x\n")),
        (("commit", "filler", "bb3"), None),
    ):
        result = cramped.run(*arguments, stdin=data, check=False)
        if result.code == 0:  # some need no room that was not there already
            cramped.run("rm", result.out.strip(), check=False)
            continue
        assert "no space left on device" in result.err, result
        assert "Errno" not in result.err
        assert "Traceback" not in result.err
    leftover = cramped.out("ps", "-aq", "--filter", "status=created").split()
    if leftover:
        cramped.run("rm", "-f", *leftover)
    assert accounting.settled(before, lambda: accounting.count(cramped)) == {}
    assert "Traceback" not in cramped.log
    cramped.run("rm", "filler")
    (cramped.root / "data" / "rest").unlink()
    assert cramped.out("run", "--rm", "bb", "echo", "again") == "again"


def _context(dockerfile: str) -> bytes:
    return accounting.tar_of({"Dockerfile": dockerfile.encode()})
