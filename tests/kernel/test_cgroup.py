"""Groups in hierarchies, made up and real."""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.forked import exit_code

from wherry.kernel import cgroup, limits, mount, namespace, usage


def test_hybrid_layout_uses_v1(tmp_path):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "31 25 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
    )
    found = cgroup.find(str(mountinfo))
    assert found.v2 is None
    assert found.directories("/a/b") == ["/sys/fs/cgroup/cpu,cpuacct/a/b"]
    mountinfo.write_text("31 25 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n")
    assert cgroup.find(str(mountinfo)).directory("memory", "x") == "/sys/fs/cgroup/x"


@pytest.mark.root
def test_what_no_container_can_do_without_is_named():
    """In a mount namespace of its own, where groups are made read-only and unmounted."""
    found = cgroup.find()
    assert cgroup.lacking(found) == ""
    assert "no control groups are mounted" in cgroup.lacking(cgroup.Hierarchies({}, None))

    def work() -> None:
        namespace.unshare(namespace.CLONE_NEWNS)
        mount.set_propagation("/", mount.MS_REC | mount.MS_PRIVATE)
        if not found.v2:
            without = cgroup.Hierarchies({name: root for name, root in found.v1.items() if name != "devices"}, None)
            assert cgroup.lacking(without) == "controllers of control groups are not mounted: devices"
        root = found.v2 or found.v1["devices"]
        tree = mount.open_tree(mount.AT_FDCWD, root)
        mount.mount_setattr(tree, add=mount.MOUNT_ATTR_RDONLY)
        mount.move_onto(tree, os.open(root, os.O_PATH | os.O_CLOEXEC))
        assert cgroup.lacking(cgroup.find()) == f"control groups are mounted read-only: {root}: a container needs one of its own"

    assert exit_code(work) == 0


@pytest.mark.root
def test_a_real_group_limits_counts_and_goes():
    if os.getuid() != 0:
        pytest.skip("needs root")
    found = cgroup.find()
    path = f"/wherry-test-{secrets.token_hex(4)}/inner"
    cgroup.create(found, path)
    try:
        limits.apply(found, path, {"memory": {"limit": 64 << 20}, "pids": {"limit": 33}})
        limits.apply(found, path, {"memory": {"limit": 128 << 20, "swap": 128 << 20}})
        used = usage.read(found, path)
        assert (used.memory_limit_bytes, used.pids_limit, used.pids) == (128 << 20, 33, 0)
        cgroup.freeze(found, path, frozen=True)
        cgroup.freeze(found, path, frozen=False)
        assert cgroup.processes(found, path) == []
        assert cgroup.oom_kills(found, path) == 0
    finally:
        assert cgroup.remove(found, path)
        assert cgroup.remove(found, os.path.dirname(path))
    assert cgroup.remove(found, path)
    with pytest.raises(FileNotFoundError):
        usage.read(found, path)


@pytest.mark.root
def test_a_v1_group_takes_a_free_name_with_who_is_in_it():
    found = cgroup.find()
    if os.getuid() != 0 or found.v2:
        pytest.skip("needs root and cgroup v1")
    above = f"/wherry-test-{secrets.token_hex(4)}"
    for name in ("one", "taken"):
        cgroup.create(found, f"{above}/{name}")
    with subprocess.Popen(["sleep", "60"], preexec_fn=lambda: cgroup.join(found, f"{above}/one")) as process:
        try:
            with pytest.raises(OSError):
                cgroup.rename(found, f"{above}/one", f"{above}/taken")
            os.rmdir(found.directories(f"{above}/taken")[0])  # the first is free, the second is not: all get the old name again
            with pytest.raises(OSError):
                cgroup.rename(found, f"{above}/one", f"{above}/taken")
            assert all(os.path.isdir(directory) for directory in found.directories(f"{above}/one"))
            cgroup.rename(found, f"{above}/one", f"{above}/two")
            assert cgroup.processes(found, f"{above}/two") == [process.pid]
            assert not any(os.path.exists(directory) for directory in found.directories(f"{above}/one"))
        finally:
            process.kill()
            process.wait()
            assert cgroup.remove(found, above)


def test_groups_in_hierarchies_of_others_are_removed_too(tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("memory", "systemd", "unified")}
    for root in roots.values():
        (root / "wh/a").mkdir(parents=True)
    lines = [
        f"1 0 0:1 / {roots['memory']} rw - cgroup cgroup rw,memory",
        f"2 0 0:2 / {roots['systemd']} rw - cgroup cgroup rw,name=systemd",
        f"3 0 0:3 / {roots['unified']} rw - cgroup2 cgroup2 rw",
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    cgroup.remove_elsewhere("/wh/a", str(tmp_path / "mountinfo"))
    assert [(root / "wh/a").exists() for root in roots.values()] == [True, False, False]
    (tmp_path / "mountinfo").write_text(lines[2] + "\n")
    (roots["unified"] / "wh/a").mkdir()
    cgroup.remove_elsewhere("/wh/a", str(tmp_path / "mountinfo"))
    assert (roots["unified"] / "wh/a").exists()  # it is ours where no v1 is


@pytest.mark.root
def test_processes_of_groups_below_are_counted_ended_and_followed_into_theirs() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root")
    found = cgroup.find()
    path = f"/wherry-test-{secrets.token_hex(4)}"
    for name in ("init", "work/deep"):
        cgroup.create(found, f"{path}/{name}")
    with (
        subprocess.Popen(["sleep", "60"], preexec_fn=lambda: cgroup.join(found, f"{path}/init")) as first,
        subprocess.Popen(["sleep", "60"], preexec_fn=lambda: cgroup.join(found, f"{path}/work/deep")) as second,
    ):
        try:
            assert set(cgroup.processes(found, path)) == {first.pid, second.pid}
            pidfd = os.pidfd_open(first.pid)
            with subprocess.Popen(["sleep", "60"], preexec_fn=lambda: cgroup.join_beside(found, path, pidfd)) as third:
                assert third.pid in cgroup.processes(found, f"{path}/init" if found.v2 else path)
                cgroup.end(found, path)  # who is not waited for keeps a v1 group
            os.close(pidfd)
        finally:
            first.kill()
            second.kill()
    assert cgroup.end(found, path)
    assert [first.returncode, second.returncode, third.returncode] == [-9, -9, -9]


@pytest.mark.root
def test_a_group_that_goes_while_it_is_looked_at_is_one_that_is_not_there() -> None:
    """The kernel has an error of its own for a file that was open when its group went."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    found = cgroup.find()
    path = f"/wherry-test-{secrets.token_hex(4)}"
    looks = [0, 0]
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                looks[bool(cgroup.processes(found, path))] += 1
            except FileNotFoundError:
                looks[1] += 1

    with ThreadPoolExecutor(2) as threads:
        looking = [threads.submit(look) for _ in range(2)]
        try:
            turns = 0
            while (turns := turns + 1) < 300 or not (all(looks) or any(one.done() for one in looking)):
                cgroup.create(found, path)
                assert cgroup.end(found, path)
        finally:
            done.set()
    assert [one.result() for one in looking] == [None, None]
