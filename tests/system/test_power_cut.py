"""The power goes at any instant of a loop of load, build, run and remove: what the disk had by then is a working data root.

The data root is an ext4 file system in a file. What that file holds at an instant is what had reached the block layer: a copy of it is
mounted, and a daemon started there. ``WHERRY_POWER_CUTS`` asks for more instants than the suite has time for.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar, dispose, make_daemon
from tests.disks import in_memory
from tests.system import accounting
from tests.system.waiting import until

from wherry.kernel import cgroup

pytestmark = [pytest.mark.root, pytest.mark.slow]
CUTS = int(os.environ.get("WHERRY_POWER_CUTS", "3"))
SIZE = 160 << 20
EXT4_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, include/uapi/linux/ext4.h


@contextmanager
def disk(image: Path, place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def is_attached(image: Path) -> bool:
    """Whether a loop device still shows it."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it went meanwhile
            found.append(path.read_text().strip())
    return str(image) in found


@pytest.fixture
def memory(abyss: Path) -> Iterator[Path]:
    """A directory in memory, for file systems in files."""
    with in_memory(abyss / "memory") as place:
        yield place


def work(daemon: Daemon, archive: Path, ended: threading.Event) -> None:
    """The loop; every command may fail when the daemon is stopped under it."""
    number = 0
    while not ended.is_set():
        number += 1
        dockerfile = f"FROM bb\nRUN echo {number} > /number\n".encode()
        for arguments, data in (
            (("load", "-q", "-i", str(archive)), None),
            (("build", "-q", "-t", f"built{number % 3}", "-"), dockerfile),
            (("run", "--net", "none", "--name", f"c{number}", f"built{number % 3}", "sh", "-c", "echo x > /x"), None),
            (("commit", f"c{number}", f"committed{number % 2}"), None),
            (("tag", "bb", f"tag{number % 4}"), None),
            (("rm", "-f", f"c{number}"), None),
            (("rmi", "-f", "other"), None),
            (("image", "prune", "-f"), None),
        ):
            daemon.run(*arguments, stdin=data, check=False)


def check(copy: Path, options: tuple[str, ...]) -> None:
    """A daemon on the copy finds nothing wrong, every container starts, and every image it has runs."""
    assert subprocess.run(["e2fsck", "-p", str(copy)], capture_output=True, check=False).returncode < 4
    daemon = make_daemon(*options)
    with disk(copy, daemon.root / "data"):
        try:
            started = time.monotonic()
            daemon.start()
            assert time.monotonic() - started < 20
            found = daemon.run("system", "fsck", check=False)
            assert found.code == 0, found.out
            for name in daemon.out("ps", "-aq").split():
                daemon.run("start", "-a", name)
            for ident in set(daemon.out("images", "-q", "--no-trunc").split()):
                daemon.run("run", "--rm", "--net", "none", ident, "true")
        finally:
            dispose(daemon)
    shutil.rmtree(daemon.root, ignore_errors=True)


@pytest.mark.parametrize("options", [(), ("--snapshotter", "overlay"), ("--snapshotter", "vfs")], ids=["", "overlay", "vfs"])
def test_a_power_cut_at_any_instant(memory: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    image, archive = memory / "disk", tmp_path / "images.tar"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    chance = random.Random(CUTS)
    daemon = make_daemon(*options)
    copies: list[Path] = []
    with disk(image, daemon.root / "data"):
        ended = threading.Event()
        loop = threading.Thread(target=work, args=(daemon, archive, ended))
        try:
            daemon.start()
            daemon.run("import", "-", "bb", stdin=busybox_tar())
            daemon.run("import", "-", "other", stdin=busybox_tar() + b"other")
            daemon.run("save", "-o", str(archive), "bb", "other")
            loop.start()
            assert daemon.process is not None
            for number in range(CUTS):
                time.sleep(chance.uniform(0.3, 2.5))  # the instant
                daemon.process.send_signal(signal.SIGSTOP)  # so that the copy is of one instant
                try:
                    copies.append(memory / f"copy{number}")
                    subprocess.run(["cp", "--sparse=always", str(image), str(copies[-1])], check=True)
                finally:
                    daemon.process.send_signal(signal.SIGCONT)
        finally:
            ended.set()
            if loop.is_alive():
                loop.join()
            dispose(daemon)
    for copy in copies:
        check(copy, options)
        copy.unlink()
    shutil.rmtree(daemon.root, ignore_errors=True)


def test_a_disk_that_answers_no_more_is_told_of_and_what_runs_can_be_stopped(memory: Path) -> None:
    image = memory / "disk"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    daemon = make_daemon()
    with disk(image, daemon.root / "data"):
        daemon.start()
        daemon.run("import", "-", "bb", stdin=busybox_tar())
        names = ("stopped", "paused")
        for name in names:
            daemon.run("run", "-d", "--name", name, "bb", "sleep", "1000")
        pids, idents = ({name: daemon.out("inspect", "-f", field, name) for name in names} for field in ("{{.State.Pid}}", "{{.Id}}"))
        fd = os.open(daemon.root / "data", os.O_RDONLY)
        fcntl.ioctl(fd, EXT4_SHUTDOWN, struct.pack("I", 2))  # from here on every access fails
        os.close(fd)
        assert daemon.run("pause", "paused", check=False).code == 1
        failed = daemon.run("create", "bb", "true", check=False).err
        assert "/data/" in failed
        assert "input/output error" in failed or "malformed" in failed  # SQLite's word for a page of its log that reads as zeros
        assert "can't be checked" in daemon.run("system", "fsck", check=False).out
        daemon.run("stop", "-t", "0", "stopped")
        assert not (accounting.PROC / pids["stopped"]).exists()
        group = f"/{accounting.settings_of(daemon).tag}/{idents['paused']}"
        assert not cgroup.is_frozen(cgroup.find(), group)
        daemon.kill()
        with pytest.raises(RuntimeError, match=r"the daemon cannot start: .*Input/output error"):
            daemon.start()
        for pid in accounting.processes(daemon):
            os.kill(pid, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if f"{daemon.root}/run/" in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=True)
    until(lambda: not is_attached(image))  # another mount would show the same file system again, ended as it is
    with disk(image, daemon.root / "data"):
        daemon.start()
        assert daemon.out("run", "--rm", "bb", "echo", "whole") == "whole"
        assert daemon.out("system", "fsck") == "Nothing is wrong."
        dispose(daemon)
    shutil.rmtree(daemon.root, ignore_errors=True)
