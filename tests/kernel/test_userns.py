"""User namespaces and id-mapped mounts, for real."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
from tests import forked

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
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (pidfd, gate, hold):
            os.close(fd)


def test_a_namespace_is_refused_where_descriptors_run_out():
    def work() -> None:
        last = max(int(name) for name in os.listdir("/proc/self/fd"))
        while os.dup(0) <= last:  # no number below the limit is free
            pass
        limit = last + 2 + 3  # the pipe's two and the process's: none for its directory
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(OSError, match="could not open its directory"):
            userns.open_mapped([(0, 1000, 100)], [(0, 2000, 100)])

    assert forked.exit_code(work) == 0
