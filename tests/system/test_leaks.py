"""Whatever is run, built, copied, stopped, removed, or fails to start: afterwards the machine holds exactly what it held before."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.conftest import Daemon, busybox_tar, make_daemon, running
from tests.system import accounting
from tests.system.accounting import tar_of

pytestmark = [pytest.mark.root, pytest.mark.slow]
ROUNDS = 8


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon of this module's own, warm: every path was taken once."""
    with running(make_daemon()) as daemon:
        daemon.run("run", "--rm", "-p", "80", "bb", "true")
        yield daemon


def grows_by_nothing(daemon: Daemon, work: Callable[[int], None], *, rounds: int = ROUNDS) -> None:
    """``work`` once to warm up, then ``rounds`` times, two at a time: nothing may be left of it."""
    work(1000)
    before = accounting.baseline(daemon)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(rounds)))
    left = accounting.settled(before, lambda: accounting.count(daemon))
    assert left == {}


def test_runs_leave_nothing(daemon: Daemon) -> None:
    def work(number: int) -> None:
        daemon.run(
            "run", "--rm", "-p", "80", "-v", "/anonymous", "bb", "sh", "-c", "echo $0 > /anonymous/x; exit 3", str(number), check=False
        )

    grows_by_nothing(daemon, work)


def test_attached_interactive_and_terminal_runs_leave_nothing(daemon: Daemon) -> None:
    def work(number: int) -> None:
        daemon.run("run", "--rm", "-i", "bb", "cat", stdin=b"hello")
        daemon.run("run", "--rm", "-t", "--init", "--net", "none", "--tmpfs", "/x", "--read-only", "bb", "true")

    grows_by_nothing(daemon, work)


def test_exec_leaves_nothing(daemon: Daemon) -> None:
    daemon.run("run", "-d", "--name", "target", "bb", "sleep", "1000")

    def work(number: int) -> None:
        assert daemon.run("exec", "target", "sh", "-c", "exit 4", check=False).code == 4
        daemon.run("exec", "-d", "target", "true")
        daemon.run("exec", "-i", "-u", "al", "-w", "/tmp", "target", "cat", stdin=b"x")
        assert daemon.run("exec", "target", "/no/such", check=False).code == 127
        assert daemon.run("exec", "-u", "nobodyhere", "target", "true", check=False).code != 0
        assert daemon.run("exec", "-w", "/no/such", "target", "true", check=False).code != 0

    try:
        grows_by_nothing(daemon, work)
    finally:
        daemon.run("rm", "-f", "target")


def test_stop_kill_restart_pause_rename_and_remove_leave_nothing(daemon: Daemon) -> None:
    def work(number: int) -> None:
        name = f"life{number}"
        daemon.run("run", "-d", "--name", name, "-p", "80", "bb", "sleep", "1000")
        daemon.run("pause", name)
        daemon.run("unpause", name)
        daemon.run("restart", "-t", "0", name)
        daemon.run("rename", name, f"{name}x")
        daemon.run("kill", f"{name}x")
        daemon.run("start", f"{name}x")
        daemon.run("stop", "-t", "0", f"{name}x")
        daemon.run("rm", f"{name}x")

    grows_by_nothing(daemon, work, rounds=4)


def test_networks_and_volumes_leave_nothing(daemon: Daemon) -> None:
    def work(number: int) -> None:
        name = f"net{number}"
        daemon.run("network", "create", name)
        daemon.run("volume", "create", name)
        daemon.run("run", "-d", "--name", name, "--network", name, "-v", f"{name}:/v", "bb", "sleep", "1000")
        daemon.run("network", "connect", "bridge", name)
        daemon.run("network", "disconnect", name, name)
        daemon.run("rm", "-f", name)
        daemon.run("volume", "rm", name)
        daemon.run("network", "rm", name)

    grows_by_nothing(daemon, work, rounds=4)


def test_copies_and_exports_leave_nothing(daemon: Daemon) -> None:
    daemon.run("run", "-d", "--name", "box", "-v", "/v", "bb", "sleep", "1000")

    def work(number: int) -> None:
        daemon.run("cp", "-", "box:/tmp", stdin=tar_of({f"file{number}": b"x" * 100_000}))
        daemon.run("cp", f"box:/tmp/file{number}", "-")
        daemon.run("exec", "box", "rm", f"/tmp/file{number}")
        daemon.run("cp", "box:/etc", "-")
        assert daemon.run("cp", "box:/no/such", "-", check=False).code
        assert daemon.run("cp", "-", "box:/no/such", stdin=tar_of({"file": b""}), check=False).code
        assert daemon.run("cp", "-", "box:/tmp", stdin=b"no tar at all" * 100, check=False).code
        daemon.run("export", "box")
        daemon.run("diff", "box")
        daemon.run("top", "box")

    try:
        grows_by_nothing(daemon, work, rounds=4)
    finally:
        daemon.run("rm", "-fv", "box")


def test_builds_that_fail_or_are_removed_leave_nothing(daemon: Daemon) -> None:
    good = "FROM bb\nRUN echo {0} > /x\nCOPY Dockerfile /y\nRUN cat /x /y > /z\n"
    bad = (
        "FROM bb\nRUN exit 7\n",
        "FROM bb\nCOPY missing /\n",
        "FROM bb\nBOGUS\n",
        "FROM bb\nUSER nobodyhere\nRUN true\n",
        "FROM nosuch.invalid/x\n",
    )

    def work(number: int) -> None:
        tag = f"built{number}"
        daemon.run("build", "-q", "-t", tag, "-", stdin=tar_of({"Dockerfile": good.format(number).encode()}))
        daemon.run("rmi", tag)
        for text in bad:
            assert daemon.run("build", "-q", "-", stdin=tar_of({"Dockerfile": text.encode()}), check=False).code
        daemon.run("builder", "prune", "-af")

    grows_by_nothing(daemon, work, rounds=3)


def test_images_that_come_and_go_leave_nothing(daemon: Daemon) -> None:
    saved = daemon.root / "saved.tar"
    daemon.run("save", "-o", str(saved), "bb")

    def work(number: int) -> None:
        daemon.run("import", "-", f"imported{number}", stdin=tar_of({"file": str(number).encode()}))
        daemon.run("create", "--name", f"commit{number}", f"imported{number}", "x")
        daemon.run("commit", f"commit{number}", f"committed{number}")
        daemon.run("rm", f"commit{number}")
        daemon.run("load", "-i", str(saved))
        daemon.run("rmi", f"imported{number}", f"committed{number}")
        assert daemon.run("load", stdin=b"garbage" * 1000, check=False).code
        assert daemon.run("load", stdin=saved.read_bytes()[:70_000], check=False).code
        assert daemon.run("import", "-", "broken", stdin=b"garbage" * 1000, check=False).code
        assert daemon.run("import", "-", "broken", stdin=busybox_tar()[:70_000], check=False).code

    grows_by_nothing(daemon, work, rounds=3)


def test_failed_starts_leave_nothing(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong = (
            (("bb", "/no/such/program"), 127),
            (("bb", "/etc/passwd"), 126),
            (("--mount", "type=bind,source=/no/such/source,target=/x", "bb", "true"), 125),
            (("-p", f"{port}:80", "bb", "true"), 125),
            (("-u", "nobodyhere", "bb", "true"), 125),
            (("-w", "/etc/passwd", "bb", "true"), 125),
            (("--net", "container:missing", "bb", "true"), 125),
            (("--network", "missing", "bb", "true"), 125),
            (("-v", "/etc/passwd:/etc", "bb", "true"), 125),
            (("--sysctl", "kernel.bogus=1", "bb", "true"), 125),
            (("--device", "/no/such/device", "bb", "true"), 127),
            (("--volumes-from", "missing", "-v", "/anonymous", "bb", "true"), 125),
        )

        def work(number: int) -> None:
            for arguments, code in wrong:
                result = daemon.run("run", "--rm", *arguments, check=False)
                assert result.code == code, (arguments, result)

        grows_by_nothing(daemon, work, rounds=3)
