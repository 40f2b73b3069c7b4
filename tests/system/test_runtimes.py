"""Containers of other OCI runtimes, the real runc and crun, and our own as a command: every verb works, a failure is said in Docker's
words, nothing is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, make_daemon, running
from tests.system.accounting import count, processes, settings_of, settled
from tests.system.talk import ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
OURS = Path(sys.executable).with_name("wherry-runtime")
PLACES = {"runc": shutil.which("runc"), "crun": shutil.which("crun"), "wherry-runtime": OURS.exists()}
INSTALLED = [pytest.param(name, marks=pytest.mark.skipif(not place, reason=f"needs {name}")) for name, place in PLACES.items()]
ALONE = ("--net", "none")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    added = ("gone=/nonexistent/runtime", "Unknown=nowhere", "mute=/bin/false", f"wherry-runtime={OURS}")
    with running(make_daemon(*(word for one in added for word in ("--add-runtime", one)))) as daemon:
        yield daemon


def left(daemon: Daemon) -> Counter[str]:
    bundles = Path(f"{daemon.root}/run/bundles")
    return count(daemon) + Counter(f"bundle {path.name}" for path in bundles.iterdir() if bundles.exists())


@pytest.mark.parametrize("runtime", INSTALLED[:2])  # of the third all but its command line is tried everywhere else
def test_every_verb_works(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    name = f"verbs-{runtime}"
    script = "id; trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"
    options = ("-u", "al", "--group-add", "55", "--hostname", "boat", "-m", "64m", "--sysctl", "net.core.somaxconn=77", "-v", "/etc")
    daemon.run("run", "-d", "--runtime", runtime, "--name", name, "--net", "none", *options, "bb", "sh", "-c", script)
    try:
        until(lambda: "uid=1000(al)" in daemon.out("logs", name))
        assert "55,1000(al),2000(extra)" in daemon.out("logs", name)
        look = "hostname; cat /proc/sys/net/core/somaxconn; id -u; head -n 1 /etc/passwd; echo $HOME"
        assert daemon.out("exec", name, "sh", "-c", look).split() == ["boat", "77", "1000", "root:x:0:0:root:/root:/bin/sh", "/home/al"]
        assert daemon.run("exec", "-u", "0", name, "sh", "-c", "exit 9", check=False).code == 9
        (tmp_path / "in").write_text("carried")
        daemon.run("cp", str(tmp_path / "in"), f"{name}:/tmp/in")
        assert daemon.out("exec", name, "cat", "/tmp/in") == "carried"
        assert ask(daemon, "GET", f"/containers/{name}/stats?stream=false&one-shot=true")[1]["memory_stats"]["limit"] == 64 << 20
        assert "sh -c id; trap" in daemon.out("top", name)
        daemon.run("pause", name)
        assert "(Paused)" in daemon.out("ps", "--format", "{{.Names}} {{.Status}}")
        daemon.run("unpause", name)
        daemon.run("restart", "-t", "5", name)
        assert daemon.out("inspect", "-f", "{{.State.Status}} {{.HostConfig.Runtime}}", name) == f"running {runtime}"
        daemon.run("stop", "-t", "5", name)
        assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", name) == "3"
        assert daemon.out("logs", "--tail", "1", name) == "bye"
        daemon.run("start", name)
        daemon.run("kill", name)
        assert daemon.out("wait", name) == "137"
    finally:
        daemon.run("rm", "-fv", name)


@pytest.mark.parametrize("runtime", INSTALLED)
def test_sandbox_and_streams_are_the_same(daemon: Daemon, runtime: str) -> None:
    mode = os.stat("/dev/null").st_mode
    look = (
        "chmod 640 /proc/self/fd/0; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; ls /proc/self/fd | wc -w; head -c 1 /proc/keys; "
        "touch /sys/x /proc/sys/x 2>&1"
    )
    run = ("run", "--rm", *ALONE, "--security-opt", "profile=strict", "--hostname", "same")
    theirs, ours = (daemon.run(*run, "--runtime", name, "bb", "sh", "-c", look, check=False) for name in (runtime, "wherry"))
    assert theirs == ours
    assert os.stat("/dev/null").st_mode == mode
    assert daemon.out("run", "--rm", "-i", *ALONE, "--runtime", runtime, "bb", "cat", stdin=b"through") == "through"
    console = daemon.out("run", "--rm", "-t", *ALONE, "--runtime", runtime, "bb", "sh", "-c", "tty; ls -l /dev/console; echo x >/dev/tty")
    assert "/dev/pts/0" in console
    assert "136,   0" in console


@pytest.mark.parametrize("runtime", INSTALLED)
def test_init_is_the_first_process_reaps_and_passes_signals_on(daemon: Daemon, runtime: str) -> None:
    name = f"init-{runtime}"
    orphan = "sh -c '(sleep 0.01; exit 7) & exec true'"
    daemon.run("run", "-d", "--init", "--runtime", runtime, "--name", name, *ALONE, "bb", "sh", "-c", f"{orphan}; exec sleep 1000")
    try:
        assert daemon.out("exec", name, "cat", "/proc/1/cmdline").split("\0")[:3] == ["/sbin/docker-init", "--", "sh"]
        until(lambda: "Z" not in daemon.out("exec", name, "sh", "-c", "cat /proc/[0-9]*/stat | cut -d ' ' -f 3"))
        assert daemon.out("inspect", "-f", "{{.Path}} {{len .Args}}", name) == "sh 2"
        daemon.run("stop", "-t", "100", name)
        assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", name) == "143"
    finally:
        daemon.run("rm", "-f", name)


@pytest.mark.parametrize("runtime", INSTALLED)
def test_a_program_that_cannot_be_started_leaves_nothing(daemon: Daemon, runtime: str) -> None:
    daemon.run("run", "--rm", *ALONE, "bb", "true")
    daemon.run("run", "--rm", *ALONE, "--runtime", runtime, "bb", "true")
    before = left(daemon)
    words = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    for arguments in (("nope",), ("/etc/passwd",)):
        failed = daemon.run("run", "--rm", *ALONE, "--runtime", runtime, "bb", *arguments, check=False)
        assert failed.code in (125, 126, 127)
        assert words in failed.err
    assert daemon.run("run", "--rm", *ALONE, "--runtime", runtime, "-u", "nobody", "bb", "true", check=False).code == 125
    assert settled(before, lambda: left(daemon)) == {}


def test_a_runtime_that_cannot_be_run_is_named(daemon: Daemon) -> None:
    for name, code, words in (
        ("gone", 127, "fork/exec /nonexistent/runtime: no such file or directory"),
        ("unknown", 127, 'exec: "nowhere": executable file not found in $PATH'),
        ("mute", 125, "/bin/false did not terminate successfully: exit status 1"),
        ("other", 125, "unknown or invalid runtime name: other"),
    ):
        failed = daemon.run("run", "--rm", *ALONE, "--runtime", name, "bb", "true", check=False)
        assert words in failed.err
        assert failed.code == code, failed
    assert not os.listdir(f"{daemon.root}/run/bundles")
    listed = daemon.out("info", "-f", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}").split()
    assert {"gone", "mute", "unknown", "wherry"} <= set(listed)


@pytest.mark.skipif(not shutil.which("runc"), reason="needs runc")
def test_death_of_daemon_and_monitor(daemon: Daemon) -> None:
    start = ("run", "-d", *ALONE, "--runtime", "runc", "--name")
    daemon.run(*start, "survivor", "bb", "sleep", "1000")
    daemon.run(*start, "victim", "bb", "sleep", "1000")
    daemon.kill()
    daemon.options = (*daemon.options, "--default-runtime", "runc")  # the self-test's container is runc's then, too
    daemon.start()
    assert daemon.out("info", "-f", "{{.DefaultRuntime}}") == "runc"
    daemon.run("create", "--name", "unsaid", "bb", "true")
    assert daemon.out("inspect", "-f", "{{.HostConfig.Runtime}}", "unsaid") == "runc"
    daemon.run("rm", "unsaid")
    assert daemon.out("exec", "survivor", "echo", "here") == "here"
    daemon.run("stop", "-t", "0", "survivor")
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "survivor") == "137"
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "victim"))
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert processes(daemon)[parent] == "wherry-monitor"
    os.kill(parent, signal.SIGKILL)
    until(lambda: daemon.out("inspect", "-f", "{{.State.Status}}", "victim") == "exited")
    until(lambda: not os.listdir(f"{daemon.root}/run/bundles"))
    ident = daemon.out("inspect", "-f", "{{.Id}}", "victim")
    group = f"{settings_of(daemon).tag}/{ident}"
    assert not [root for root in os.listdir("/sys/fs/cgroup") if os.path.exists(f"/sys/fs/cgroup/{root}/{group}")]
    daemon.run("start", "victim")
    assert daemon.out("exec", "victim", "echo", "again") == "again"
    daemon.run("rm", "-f", "victim", "survivor")
