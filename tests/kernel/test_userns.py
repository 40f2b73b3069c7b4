"""User namespaces and id-mapped mounts, for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.kernel import mount, namespace, process, userns

pytestmark = pytest.mark.root


def test_a_namespace_without_a_process_maps_a_mount(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 7, 8)
    tree = mount.open_tree(mount.AT_FDCWD, str(tmp_path))
    user = userns.open_mapped([(0, 1000, 100)], [(0, 2000, 100)])
    try:
        mount.idmap(tree, user)
        status = os.stat("file", dir_fd=tree)
        assert (status.st_uid, status.st_gid) == (1007, 2008)
    finally:
        os.close(user)
        os.close(tree)
    assert os.stat(tmp_path / "file").st_uid == 7


def test_maps_are_written_once():
    gate, hold = os.pipe()
    pid, pidfd = process.clone(namespace.CLONE_NEWUSER)
    if pid == 0:
        os.read(gate, 1)
        os._exit(0)
    try:
        userns.write_maps(f"/proc/{pid}", [(0, 5000, 10)], [(0, 6000, 10)])
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "5000", "10"]
        with pytest.raises(PermissionError):
            userns.write_maps(f"/proc/{pid}", [(0, 5000, 10)], [(0, 6000, 10)])
    finally:
        os.write(hold, b"x")
        os.waitpid(pid, 0)
        for fd in (pidfd, gate, hold):
            os.close(fd)
