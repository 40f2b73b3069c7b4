"""Hostile images, archives and requests through the real engine: nothing outside a container is read, written or waited for."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar, make_daemon, running
from tests.security.archives import Add, archive_of, member, symlink, tar_with, traversals
from tests.system.stopwatch import Stopwatch
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(make_daemon()) as daemon:
        yield daemon


class Canary:
    """A directory of the host's that must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.path = root
        self.path.mkdir(mode=0o750)
        (self.path / "file").write_text("untouched")
        (self.path / "file").chmod(0o640)
        self.before = self._state()

    def _state(self) -> list[tuple[object, ...]]:
        found = []
        for path in (self.path, *sorted(self.path.rglob("*"))):
            status = path.lstat()
            found.append((path, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, status.st_size))
        return found

    def check(self) -> None:
        assert self._state() == self.before
        assert (self.path / "file").read_text() == "untouched"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(tmp_path / "canary")
    yield canary
    canary.check()


def image_with(*adds: Add, without: tuple[str, ...] = ()) -> bytes:
    """The busybox image with further members, and without some of its own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as source, tarfile.open(fileobj=buffer, mode="w") as target:
        for info in source:
            if not any(info.name == name or info.name.startswith(name + "/") for name in without):
                target.addfile(info, source.extractfile(info) if info.isreg() else None)
        for add in adds:
            add(target)
    return buffer.getvalue()


NAMES = tuple(traversals(Path("/x")))


@pytest.mark.parametrize("name", NAMES)
def test_archives_stay_inside_whatever_reads_them(daemon: Daemon, canary: Canary, tmp_path: Path, name: str) -> None:
    evil = tar_with(*traversals(canary.path)[name])
    daemon.run("import", "-", "hostile", stdin=evil, check=False)
    daemon.run("load", stdin=archive_of(busybox_tar(), evil), check=False)
    if daemon.run("image", "inspect", "hostile", check=False).code == 0:
        daemon.run("run", "--rm", "--net", "none", "hostile", "ls", "-R", "/", check=False)
    daemon.run("create", "--name", "target", "bb", "true")
    daemon.run("cp", "-", "target:/", stdin=evil, check=False)
    daemon.run("cp", "target:/", str(tmp_path / "out"), check=False)
    daemon.run("rm", "target")
    for dockerfile in (b"FROM bb\nCOPY . /x/\nRUN true\n", b"FROM bb\nADD evil.tar /\nRUN true\n"):
        adds = [*traversals(canary.path)[name], member("evil.tar", data=evil), member("Dockerfile", data=dockerfile)]
        daemon.run("build", "-q", "-", stdin=tar_with(*adds), check=False)
    canary.check()
    assert not (tmp_path / "canary" / "new").exists()
    assert daemon.out("run", "--rm", "--net", "none", "bb", "echo", "well") == "well"
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize(
    "place", ["proc", "sys", "dev", "etc", "tmp", "dev/pts", "dev/shm", "dev/null", "dev/console", "etc/hosts", "etc/passwd"]
)
def test_what_an_image_has_where_we_mount_leads_nowhere(daemon: Daemon, canary: Canary, place: str) -> None:
    for target in (canary.path, canary.path / "file", "../../../../../../../.." + str(canary.path)):
        parents = [member("dev", tarfile.DIRTYPE, data=b"")] if place.startswith("dev/") else []
        daemon.run("import", "-", "linked", stdin=image_with(*parents, symlink(place, target), without=(place,)))
        options = ("--rm", "--net", "none", "-v", "/anonymous", "--tmpfs", "/tmp", "--sysctl", "kernel.shm_rmid_forced=1")
        result = daemon.run("run", *options, "linked", "sh", "-c", "echo x > /dev/null; echo y > /etc/hosts; ls /proc/1 /dev", check=False)
        assert "untouched" not in result.out
        daemon.run("run", "--rm", "-t", "--net", "none", "--read-only", "--device", "/dev/null:/dev/other", "linked", "true", check=False)
        daemon.run("create", "--name", "linked", "linked", "true")
        daemon.run("cp", "-", f"linked:/{place}", stdin=tar_with(member("new")), check=False)
        daemon.run("rm", "linked")
        canary.check()


@pytest.mark.parametrize("place", ["proc", "sys"])
def test_an_image_that_leads_proc_or_sys_elsewhere_in_itself_is_refused(daemon: Daemon, place: str) -> None:
    """Where they are is where the kernel's settings are written to, and what is masked is looked for."""
    daemon.run("import", "-", "led", stdin=image_with(symlink(place, "home"), without=(place,)))
    for options in ((), ("--privileged",)):
        assert daemon.run("run", "--rm", "--net", "none", *options, "led", "true", check=False).code == 125


def test_pipes_in_place_of_passwd_and_group_keep_nobody_waiting(daemon: Daemon) -> None:
    pipes = (member("etc/passwd", tarfile.FIFOTYPE), member("etc/group", tarfile.FIFOTYPE))
    daemon.run("import", "-", "pipes", stdin=image_with(*pipes, without=("etc/passwd", "etc/group")))
    builds = [
        tar_with(member("Dockerfile", data=text))
        for text in (b"FROM pipes\nUSER 5\nRUN true\nCOPY --chown=7 Dockerfile /\n", b"FROM pipes\nUSER al\nRUN true\n")
    ]
    with Stopwatch() as watch:
        assert daemon.out("run", "--name", "pipes", "--net", "none", "pipes", "echo", "here") == "here"
        assert daemon.run("run", "--rm", "--net", "none", "-u", "al", "pipes", "true", check=False).code == 125
        daemon.run("cp", "pipes:/etc", "-")
        assert [daemon.run("build", "-q", "-", stdin=one, check=False).code for one in builds] == [0, 1]
        daemon.run("inspect", "pipes")
        daemon.run("rm", "-f", "pipes")
        daemon.run("rmi", "-f", "pipes")
    assert watch.seconds < 10


def test_working_directories_made_of_descriptors_lead_nowhere(daemon: Daemon) -> None:
    outside = set(os.listdir("/")) - {".dockerenv", "bin", "etc", "root", "tmp", "home", "proc", "sys", "dev"}
    look = ("sh", "-c", "ls -a . .. ../.. ../../../../..")
    daemon.run("run", "-d", "--name", "victim", "--net", "none", "bb", "sleep", "1000")
    try:
        for number in (0, 3, 5, 7, 9, 12):
            for shape in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../../..", f"/proc/1/fd/{number}"):
                for arguments in (("run", "--rm", "--net", "none", "-w", shape, "bb", *look), ("exec", "-w", shape, "victim", *look)):
                    result = daemon.run(*arguments, check=False)
                    assert result.code or not outside & set(result.out.split("\n")), (shape, result)
        lines = "".join(f"WORKDIR /proc/self/fd/{number}\nRUN ls -a . .. ../../..\n" for number in (3, 5, 7, 9))
        result = daemon.run(
            "build",
            "--no-cache",
            "--progress",
            "plain",
            "-",
            stdin=tar_with(member("Dockerfile", data=f"FROM bb\n{lines}".encode())),
            check=False,
        )
        shown = {line.rpartition(" ")[2] for line in (result.out + result.err).split("\n")}
        assert not {name for name in outside if len(name) > 2} & shown
        assert daemon.out("exec", "victim", "ls", "/proc/1/fd").split() == ["0", "1", "2"]
    finally:
        daemon.run("rm", "-f", "victim")


def test_a_working_directory_that_no_path_of_the_container_leads_to_is_left(daemon: Daemon) -> None:
    lost = "mkdir /lost && cd /lost && rmdir /lost && exec sleep 1000"
    daemon.run("run", "-d", "--name", "lost", "--net", "none", "bb", "sh", "-c", lost)
    try:
        until(lambda: os.readlink(f"/proc/{daemon.out('inspect', '-f', '{{.State.Pid}}', 'lost')}/cwd").endswith(" (deleted)"))
        done = daemon.run("exec", "-w", "/proc/1/cwd", "lost", "true", check=False)
        assert done.code
        assert "current working directory is outside of container mount namespace root" in done.out + done.err
    finally:
        daemon.run("rm", "-f", "lost")


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/sys/kernel", "/proc/../proc/1"])
def test_nothing_is_mounted_over_proc(daemon: Daemon, canary: Canary, place: str) -> None:
    for option in (("-v", f"{canary.path}:{place}"), ("--tmpfs", place), ("--mount", f"type=bind,source={canary.path},target={place}")):
        assert daemon.run("run", "--rm", "--net", "none", *option, "bb", "true", check=False).code in (125, 126, 127), option


def test_our_own_program_is_never_seen_or_opened_from_inside(daemon: Daemon) -> None:
    program = Path(os.path.realpath(sys.executable))
    before = (hashlib.sha256(program.read_bytes()).hexdigest(), program.stat().st_mtime_ns)
    watch = (
        "while true; do for p in /proc/[0-9]*; do l=$(readlink $p/exe 2>/dev/null) && echo $l; "
        "case $l in *busybox*) ;; *) dd if=/dev/zero of=$p/exe conv=notrunc count=1 2>/dev/null && echo WRITTEN $l;; esac; done; done"
    )
    script = member("evil", data=b"#!/proc/self/exe\n")
    daemon.run("import", "-", "selfexec", stdin=image_with(script, symlink("self", "/proc/self/exe")))
    daemon.run("run", "-d", "--name", "watcher", "--net", "none", "selfexec", "sh", "-c", watch)
    try:
        for _ in range(6):
            for word in ("/evil", "/self", "/proc/self/exe", "true"):
                daemon.run("exec", "watcher", word, check=False)
    finally:
        seen = set(daemon.out("logs", "--tail", "20000", "watcher").split("\n"))
        daemon.run("rm", "-f", "watcher")
    assert not [line for line in seen if "python" in line or "WRITTEN" in line], seen
    assert (hashlib.sha256(program.read_bytes()).hexdigest(), program.stat().st_mtime_ns) == before


def test_no_inheritable_capabilities_anywhere(daemon: Daemon) -> None:
    daemon.run("run", "-d", "--name", "caps", "--net", "none", "bb", "sleep", "1000")
    look = ("grep", "CapInh", "/proc/self/status")
    build = tar_with(member("Dockerfile", data=b"FROM bb\nRUN grep CapInh /proc/self/status\nUSER al\nRUN grep CapInh /proc/self/status\n"))
    try:
        shown = [
            daemon.out("run", "--rm", "--net", "none", "bb", *look),
            daemon.out("run", "--rm", "--net", "none", "-u", "al", "--cap-add", "SYS_ADMIN", "bb", *look),
            daemon.out("exec", "caps", *look),
            daemon.out("exec", "-u", "al", "--privileged", "caps", *look),
        ]
    finally:
        daemon.run("rm", "-f", "caps")
    assert set(shown) == {"CapInh:\t0000000000000000"}
    result = daemon.run("build", "--no-cache", "--progress", "plain", "-", stdin=build)
    assert (result.out + result.err).count("CapInh:\t0000000000000000") == 2


@pytest.mark.parametrize(
    "option", ["--hostname=a\nb", "--add-host=a\nb:1.2.3.4", "--dns-search=a\nnameserver 6.6.6.6", "--domainname=a\nb"]
)
def test_lines_cannot_be_smuggled_into_the_files_of_etc(daemon: Daemon, option: str) -> None:
    result = daemon.run("run", "--rm", option, "bb", "cat", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", check=False)
    assert result.code == 125, result


def test_deep_trees_and_many_whiteouts_take_no_time(daemon: Daemon) -> None:
    deep = [member("/".join(["d"] * (level + 1)), tarfile.DIRTYPE) for level in range(1500)]
    opaque = [member("o", tarfile.DIRTYPE), *(member("o/.wh..wh..opq", data=b"") for _ in range(20_000))]
    archive = archive_of(busybox_tar(), tar_with(*deep), tar_with(*opaque))
    with Stopwatch() as watch:
        daemon.run("load", stdin=archive, check=False)
        daemon.run("rmi", "-f", "hostile", check=False)
    assert watch.seconds < 15


def test_other_users_of_the_host_cannot_reach_what_containers_hold(daemon: Daemon) -> None:
    for name in ("data", "data/snapshots", "data/containers", "data/volumes", "data/content/sha256", "run/monitors", "run/sandboxes"):
        path = daemon.root / name
        if path.exists():
            assert path.stat().st_mode & 0o007 == 0, name
