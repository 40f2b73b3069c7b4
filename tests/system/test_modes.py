"""Namespaces that are shared, control groups below another parent, limits changed while a container runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon

from wherry.kernel import cgroup


@pytest.fixture(scope="module")
def donor(engine: Daemon) -> Iterator[str]:
    engine.run("run", "-d", "--name", "donor", "--ipc", "shareable", "bb", "sh", "-c", "echo shared >/dev/shm/file; exec sleep 1000")
    yield "donor"
    engine.run("rm", "-f", "donor")


def namespaces(engine: Daemon, *options: str) -> dict[str, str]:
    kinds = ("ipc", "pid", "uts", "net", "mnt", "cgroup")
    script = f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done"
    return dict(zip(kinds, engine.out("run", "--rm", *options, "bb", "sh", "-c", script).split(), strict=True))


def test_ipc_of_another_container_is_its_memory_too(engine: Daemon, donor: str) -> None:
    assert engine.out("run", "--rm", "--ipc", f"container:{donor}", "bb", "cat", "/dev/shm/file") == "shared"
    engine.run("run", "--rm", "--ipc", f"container:{donor}", "bb", "sh", "-c", "echo back >/dev/shm/other")
    assert engine.out("exec", donor, "cat", "/dev/shm/other") == "back"


def test_only_what_is_asked_for_is_shared(engine: Daemon, donor: str) -> None:
    pid = engine.out("inspect", donor, "-f", "{{.State.Pid}}")
    theirs = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("ipc", "pid", "uts", "net", "mnt", "cgroup")}
    hosts = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in theirs}
    for options, shared, with_whom in (
        (("--ipc", f"container:{donor}"), {"ipc"}, theirs),
        (("--pid", f"container:{donor}"), {"pid"}, theirs),
        (("--network", f"container:{donor}"), {"net"}, theirs),
        (("--uts", "host", "--cgroupns", "host"), {"uts", "cgroup"}, hosts),
    ):
        found = namespaces(engine, *options)
        assert {kind for kind in found if found[kind] == with_whom[kind]} == shared, options


def test_private_ipc_is_not_given_and_a_stopped_container_has_none(engine: Daemon) -> None:
    engine.run("create", "--name", "closed", "bb", "sleep", "1000")
    try:
        stopped = engine.run("run", "--rm", "--ipc", "container:closed", "bb", "true", check=False)
        assert "failed to join IPC namespace: container " in stopped.err
        assert "is not running" in stopped.err
        engine.run("start", "closed")
        private = engine.run("run", "--rm", "--ipc", "container:closed", "bb", "true", check=False)
        assert "non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in private.err
    finally:
        engine.run("rm", "-f", "closed")


def test_an_exec_has_the_added_groups_and_a_terminal_only_if_asked(engine: Daemon) -> None:
    engine.run("run", "-dt", "--name", "grouped", "--group-add", "77", "bb", "sleep", "1000")
    try:
        assert engine.out("exec", "-u", "99999:88", "grouped", "id") == "uid=99999 gid=88 groups=77,88"
        assert "TERM=" not in engine.out("exec", "grouped", "env")
        assert "TERM=xterm" in engine.out("exec", "-t", "grouped", "env")
    finally:
        engine.run("rm", "-f", "grouped")


def test_control_groups_go_below_the_parent_asked_for(engine: Daemon) -> None:
    parent = f"/wherry-test-parent-{os.getpid()}"
    engine.run("run", "-d", "--name", "nested", "--cgroup-parent", parent, "--pids-limit", "50", "bb", "sleep", "1000")
    ident = engine.out("inspect", "nested", "-f", "{{.Id}}")
    groups = cgroup.find()
    try:
        assert cgroup.processes(groups, f"{parent}/{ident}")
        assert engine.out("top", "nested", "-o", "pid,comm").split()[-1] == "sleep"
        engine.run("pause", "nested")
        engine.run("unpause", "nested")
        engine.run("exec", "nested", "true")
        engine.run("update", "nested", "--pids-limit", "40")
        limit = Path(groups.directory("pids", f"{parent}/{ident}") or "", "pids.max")
        assert limit.read_text() == "40\n"
        engine.run("update", "nested", "--pids-limit", "-1")
        assert limit.read_text() == "max\n"
    finally:
        engine.run("rm", "-f", "nested")
        left = [directory for directory in groups.directories(f"{parent}/{ident}") if os.path.exists(directory)]
        for directory in groups.directories(parent):
            os.rmdir(directory)
    assert left == []


def test_an_update_that_the_kernel_refuses_changes_nothing(engine: Daemon) -> None:
    script = "dd if=/dev/zero of=/dev/shm/f bs=1M count=40; exec sleep 1000"
    engine.run("run", "-d", "--name", "full", "--memory", "60m", "--cpu-shares", "512", "bb", "sh", "-c", script)
    path = groups_of(engine, "full")
    groups = cgroup.find()
    try:
        engine.run("exec", "full", "sh", "-c", "while [ $(stat -c %s /dev/shm/f) -lt 41943040 ]; do sleep 0.05; done")
        before = limit_of(groups, path)
        refused = engine.run("update", "full", "--memory", "10m", "--memory-swap", "10m", "--cpu-shares", "100", check=False)
        if refused.code == 0:
            pytest.skip("this kernel could swap or reclaim it")
        assert f"Cannot update container {path.rpartition('/')[2]}: unable to set memory limit to {10 << 20} (current" in refused.err
        assert limit_of(groups, path) == before
        assert engine.out("inspect", "full", "-f", "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}}") == f"{60 << 20} 512"
    finally:
        engine.run("rm", "-f", "full")


def groups_of(engine: Daemon, name: str) -> str:
    """The path of a running container's control groups."""
    lines = Path(f"/proc/{engine.out('inspect', name, '-f', '{{.State.Pid}}')}/cgroup").read_text().splitlines()
    return next(line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(",") or line.startswith("0::/w"))


def limit_of(groups: cgroup.Hierarchies, path: str) -> str:
    return Path(groups.directory("memory", path) or "", "memory.max" if groups.v2 else "memory.limit_in_bytes").read_text().strip()
