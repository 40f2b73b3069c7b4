"""Control groups v2 on a real kernel that has nothing else.

A virtual machine runs the runtime's own tests (tools/v2kernel); the rest of this file is for the inside of such a machine: `tools/v2kernel
tests/system/test_cgroup_v2.py`, and in its long form.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, make_daemon, running
from tests.system.talk import ask

from wherry.kernel import cgroup

TOOL = Path(__file__).resolve().parents[2] / "tools" / "v2kernel"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_runtime_works_on_a_kernel_with_cgroup_v2_alone() -> None:
    if shutil.which("qemu-system-x86_64") is None or os.geteuid() != 0:
        pytest.skip("needs root and qemu-system-x86_64 (Debian: qemu-system-x86)")
    with subprocess.Popen(
        [sys.executable, str(TOOL)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as tool:
        try:
            told, _ = tool.communicate(timeout=570)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tool.pid, signal.SIGKILL)  # the machine too: it would go on beside other tests
    assert tool.returncode == 0, told[-5000:]
    assert "passed" in told


def unified() -> cgroup.Hierarchies:
    found = cgroup.find()
    if found.v2 is None:
        pytest.skip("cgroup v1 controls here: see tools/v2kernel")
    return found


@pytest.fixture
def folder(engine: Daemon) -> Iterator[tuple[str, Path]]:
    """A running container with every limit, and its group."""
    root = unified().v2
    limits = [
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "20",
        "--blkio-weight",
        "500",
        "--memory-reservation",
        "32m",
    ]
    ident = engine.out("run", "-d", *limits, "--device-read-bps", "/dev/vda:1mb", "bb", "sleep", "1000")
    yield ident, next(Path(str(root)).glob(f"*/{ident}"))
    engine.run("rm", "-f", ident)


def test_limits_are_set_and_changed_as_other_runtimes_translate_them(engine: Daemon, folder: tuple[str, Path]) -> None:
    ident, group = folder
    names = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max", "io.weight")

    def values() -> list[str]:
        return [(group / name).read_text().strip() for name in names if (group / name).exists()]

    swap = [str(64 << 20)] if (group / "memory.swap.max").exists() else []
    assert values() == [str(64 << 20), *swap, str(32 << 20), "50000 100000", "100", "0", "20", "default 4950"]
    assert "rbps=1048576 wbps=max" in (group / "io.max").read_text()
    wanted = ["-m", "96m", "--memory-swap", "-1", "--memory-reservation", "10m", "--cpus", "0.7", "--cpu-shares", "512"]
    engine.run("update", *wanted, "--pids-limit", "-1", "--blkio-weight", "100", ident)
    assert values() == [str(96 << 20), *(["max"] if swap else []), str(10 << 20), "70000 100000", "20", "0", "max", "default 910"]


def test_statistics_have_the_names_that_docker_gives_them(engine: Daemon, folder: tuple[str, Path]) -> None:
    ident, group = folder
    sample = ask(engine, "GET", f"/containers/{ident}/stats?stream=0&one-shot=1")[1]
    memory = sample["memory_stats"]
    assert set(memory) == {"usage", "stats", "limit"}
    assert memory["limit"] == 64 << 20
    assert len(memory["stats"]) == 31
    assert {"anon", "file", "inactive_file", "slab", "workingset_refault", "thp_collapse_alloc"} <= set(memory["stats"])
    assert "percpu_usage" not in sample["cpu_stats"]["cpu_usage"]
    assert 0 < sample["cpu_stats"]["cpu_usage"]["total_usage"] <= cpu_ns(group)
    assert {one["op"] for one in sample["blkio_stats"]["io_service_bytes_recursive"] or ()} <= {"read", "write"}
    assert sample["pids_stats"] == {"current": 1, "limit": 20}
    engine.run("update", "--pids-limit", "-1", ident)
    assert ask(engine, "GET", f"/containers/{ident}/stats?stream=0&one-shot=1")[1]["pids_stats"]["limit"] == (1 << 64) - 1


def cpu_ns(group: Path) -> int:
    return int((group / "cpu.stat").read_text().split()[1]) * 1000


def test_what_only_v1_has_is_discarded_with_dockers_words(engine: Daemon) -> None:
    unified()
    made = engine.run("create", "--name", "lenient", "--oom-kill-disable", "-m", "20m", "--memory-swappiness", "10", "bb", "true")
    assert made.err.splitlines() == [
        "WARNING: Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
        "WARNING: Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    ]
    kept = json.loads(engine.out("inspect", "-f", "{{json .HostConfig}}", "lenient"))
    assert (kept["OomKillDisable"], kept["MemorySwappiness"]) == (None, None)
    engine.run("rm", "lenient")


def test_a_container_that_makes_groups_of_its_own_is_entered_and_listed(engine: Daemon) -> None:
    groups = unified()
    move = (
        "cd /sys/fs/cgroup; mkdir init work; echo 1 >init/cgroup.procs; echo +pids >cgroup.subtree_control; touch /moved; exec sleep 1000"
    )
    ident = engine.out("run", "-d", "--privileged", "bb", "sh", "-c", move)
    engine.run("exec", ident, "sh", "-c", "while [ ! -e /moved ]; do sleep 0.1; done", check=False)  # it may come between
    assert engine.out("exec", ident, "cat", "/proc/self/cgroup", "/sys/fs/cgroup/cgroup.subtree_control").split() == ["0::/init", "pids"]
    assert [row.split()[-2:] for row in engine.out("top", ident).splitlines()[1:]] == [["sleep", "1000"]]
    engine.run("rm", "-f", ident)
    assert not list(Path(str(groups.v2)).glob(f"*/{ident}"))


INNER = """
import os, subprocess, sys
from wherry.kernel import namespace
os.makedirs(sys.argv[1])
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
namespace.unshare(namespace.CLONE_NEWCGROUP | namespace.CLONE_NEWNS)
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["umount", "/sys/fs/cgroup"], check=True)
subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
sys.argv = sys.argv[2:]
from wherry.daemon import main
sys.exit(main())
"""


def test_a_daemon_in_a_container_makes_room_for_its_containers() -> None:
    groups = unified()
    outer = f"{groups.v2}/outer-{os.getpid()}"
    cgroup.create(groups, f"/outer-{os.getpid()}")  # its parent hands down what there is
    os.rmdir(outer)
    daemon = make_daemon()
    daemon.program = ("-c", INNER, outer, "wherry.daemon")
    try:
        with running(daemon):
            shown = daemon.out(
                "run", "--rm", "-m", "32m", "--pids-limit", "7", "bb", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"
            )
            assert shown.split() == [str(32 << 20), "7"]
            assert "in its group init now" in daemon.log
            assert Path(outer, "init/cgroup.procs").read_text()
            assert Path(outer, "cgroup.procs").read_text() == ""
    finally:
        assert cgroup.end(groups, f"/outer-{os.getpid()}")
