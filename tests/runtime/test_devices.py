"""What stands in /dev of a tree that others made."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.kernel import cgroup, mount
from wherry.runtime.devices import OpenConsole
from wherry.runtime.failure import StartFailure
from wherry.runtime.steps import Sandbox

pytestmark = pytest.mark.root


@pytest.fixture
def lying_dev(tmp_path: Path) -> Iterator[Path]:
    """A /dev whose pts/ptmx makes terminals in a devpts elsewhere; what has their names in pts is up to the test."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "pts/pts").mkdir(parents=True)
    mount.attach(mount.new_mount("devpts", [("newinstance", None), ("ptmxmode", "666")], source="devpts"), str(tmp_path / "pts/pts"))
    os.mknod(tmp_path / "pts/ptmx", stat.S_IFCHR | 0o666, os.makedev(5, 2))
    yield tmp_path
    for path in (tmp_path / "console", tmp_path / "pts/pts"):
        with contextlib.suppress(OSError):
            mount.umount2(str(path), mount.MNT_DETACH)


@pytest.mark.parametrize("link", [True, False])
def test_a_file_with_a_terminals_name_is_never_the_console(lying_dev: Path, link: bool) -> None:
    """CVE-2025-52565."""
    secret = lying_dev / "secret"
    secret.write_text("of the host")
    for number in range(4):
        name = lying_dev / "pts" / str(number)
        name.symlink_to(secret) if link else name.hardlink_to(secret)
    sandbox = Sandbox(cgroup.Hierarchies({}, None))
    opened = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (lying_dev / "pts", lying_dev)]
    sandbox.pts_fd, sandbox.dev_fd = opened
    try:
        with pytest.raises((OSError, StartFailure), match=r"symbolic links|is not its terminal"):
            OpenConsole(0, 0).execute(sandbox)
        assert (lying_dev / "console").read_text() == ""
    finally:
        for fd in (*opened, sandbox.master_fd, sandbox.slave_fd):
            os.close(fd)
