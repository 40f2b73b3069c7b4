"""What a container really gets, asked from inside: ``docs/security.md`` row by row, for `run`, `exec` and a build's RUN."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, make_daemon, running

pytestmark = [pytest.mark.root, pytest.mark.slow]
DOCKER_SET, STRICT_SET = "00000000a80425fb", "00000000800405fb"
LOOK = ("grep", "-E", "^(Cap|NoNewPrivs|Seccomp|Groups)", "/proc/self/status")


def status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines() if ":" in line)}


def dockerfile(text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text.encode())
        tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose configuration file asks for the strict profile."""
    path = tmp_path_factory.mktemp("strict") / "daemon.json"
    path.write_text(json.dumps({"security-profile": "strict"}))
    with running(make_daemon("--config-file", str(path))) as daemon:
        yield daemon


def test_default_privileges_of_run_exec_and_build(engine: Daemon) -> None:
    expected = {
        **{"CapInh": "0" * 16, "CapPrm": DOCKER_SET, "CapEff": DOCKER_SET, "CapBnd": DOCKER_SET, "CapAmb": "0" * 16},
        **{"NoNewPrivs": "0", "Seccomp": "2", "Seccomp_filters": "1", "Groups": "0"},
    }
    engine.run("run", "-d", "--name", "privileges", "--net", "none", "--oom-score-adj", "300", "bb", "sleep", "1000")
    try:
        assert status(engine.out("run", "--rm", "--net", "none", "bb", *LOOK)) == expected
        assert status(engine.out("exec", "privileges", *LOOK)) == expected
        assert engine.out("exec", "privileges", "cat", "/proc/self/oom_score_adj") == "300"
    finally:
        engine.run("rm", "-f", "privileges")
    built = engine.run("build", "--no-cache", "--progress", "plain", "-", stdin=dockerfile("FROM bb\nRUN grep Cap /proc/self/status\n"))
    assert (built.out + built.err).count(DOCKER_SET) == 3
    other = status(engine.out("run", "--rm", "--net", "none", "-u", "al", "bb", *LOOK))
    assert (other["CapEff"], other["CapPrm"], other["CapBnd"], other["Groups"]) == ("0" * 16, "0" * 16, DOCKER_SET, "1000 2000")


def test_what_is_mounted_is_private_and_as_read_only_as_documented(engine: Daemon) -> None:
    script = (
        "cat /proc/self/mountinfo; echo ==; cat /proc/1/cgroup; echo ==; ls -l /.dockerenv; umask; cat /proc/1/oom_score_adj; echo ==; "
        "ls /proc/1/fd; echo ==; for f in /sys/fs/cgroup/new /sys/new /proc/sys/kernel/core_pattern; do echo x 2>/dev/null >$f "
        "&& echo wrote $f; done; mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; mknod /tmp/tun c 10 200 && head -c1 /tmp/tun 2>&1; true"
    )
    mounts, groups, facts, fds, written = engine.out("run", "--rm", "--net", "none", "bb", "sh", "-c", script).split("==\n")
    for line in mounts.splitlines():
        assert line.split(" - ")[0].split()[6:] == [], line  # no shared:, no master:
    options = {fields[4]: set(fields[5].split(",")) for fields in (line.split() for line in mounts.splitlines())}
    assert options["/proc"] >= {"rw", "nosuid", "nodev", "noexec"}
    for path in ("/sys", "/sys/fs/cgroup", "/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"):
        assert options[path] >= {"ro", "nosuid", "nodev", "noexec"}, path
    assert options["/dev/shm"] >= {"nosuid", "nodev", "noexec"}
    for path in ("/proc/keys", "/proc/iomem", "/sys/firmware", "/proc/kpagecount", "/sys/kernel/notes"):
        assert path in options or not Path(path).exists(), path
    assert {line.rpartition(":")[2] for line in groups.splitlines()} == {"/"}
    assert "root             0" in facts
    assert facts.splitlines()[1:] == ["0022", "0"]
    assert fds.split() == ["0", "1", "2"]
    assert "wrote" not in written
    assert "made" not in written
    assert "Operation not permitted" in written  # the device rules leave /dev/net/tun to --device


def test_the_strict_profile_of_one_container(engine: Daemon) -> None:
    option = ("--security-opt", "profile=strict")
    found = status(engine.out("run", "--rm", "--net", "none", *option, "bb", *LOOK))
    assert (found["CapBnd"], found["CapEff"], found["NoNewPrivs"]) == (STRICT_SET, STRICT_SET, "1")
    added = status(engine.out("run", "--rm", "--net", "none", *option, "--cap-add", "NET_RAW", "bb", *LOOK))
    assert added["CapBnd"] == "00000000800425fb"
    relaxed = status(engine.out("run", "--rm", "--net", "none", *option, "--security-opt", "no-new-privileges=false", "bb", *LOOK))
    assert relaxed["NoNewPrivs"] == "0"


def test_a_strict_daemon_is_strict_everywhere_and_says_so(strict: Daemon) -> None:
    strict.run("run", "-d", "--name", "held", "--net", "none", "bb", "sleep", "1000")
    for arguments in (("run", "--rm", "--net", "none", "bb"), ("exec", "held")):
        found = status(strict.out(*arguments, *LOOK))
        assert (found["CapBnd"], found["NoNewPrivs"]) == (STRICT_SET, "1")
    assert json.loads(strict.out("inspect", "-f", "{{json .HostConfig.SecurityOpt}}", "held")) == ["profile=strict"]
    built = strict.run("build", "--no-cache", "--progress", "plain", "-", stdin=dockerfile("FROM bb\nRUN grep CapBnd /proc/self/status\n"))
    assert STRICT_SET in built.out + built.err
    found = status(strict.out("run", "--rm", "--net", "none", "--security-opt", "profile=default", "bb", *LOOK))
    assert (found["CapBnd"], found["NoNewPrivs"]) == (DOCKER_SET, "0")
    assert "name=profile,profile=strict" in strict.out("info", "-f", "{{json .SecurityOptions}}")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bogus=1", 'invalid --security-opt 2: "bogus=1"'),
        ("bogus", 'Invalid --security-opt: "bogus"'),
        ("seccomp=", 'Invalid --security-opt: "seccomp="'),
        ("systempaths=x", 'invalid --security-opt 2: "systempaths=x"'),
        ("no-new-privileges=x", 'invalid --security-opt 2: "no-new-privileges=x"'),
        ("seccomp=/nope", "opening seccomp profile (/nope) failed: open /nope: no such file or directory"),
    ],
)
def test_options_that_mean_nothing_are_refused(engine: Daemon, option: str, message: str) -> None:
    result = engine.run("create", "--security-opt", option, "bb", "true", check=False)
    assert result.code
    assert message in result.err


def test_options_open_exactly_what_they_name(engine: Daemon) -> None:
    run = ("run", "--rm", "--net", "none")
    for option, name, value in (
        ("seccomp=unconfined", "Seccomp", "0"),
        ("seccomp=builtin", "Seccomp", "2"),
        ("no-new-privileges", "NoNewPrivs", "1"),
        ("no-new-privileges=false", "NoNewPrivs", "0"),
        ("apparmor=unconfined", "Seccomp", "2"),
        ("label=disable", "Seccomp", "2"),
    ):
        assert status(engine.out(*run, "--security-opt", option, "bb", *LOOK))[name] == value, option
    shown = engine.out(*run, "--security-opt", "systempaths=unconfined", "bb", "cat", "/proc/self/mountinfo")
    assert not [line for line in shown.splitlines() if line.split()[4] in ("/proc/keys", "/proc/sys", "/sys/firmware")]


def test_a_bad_configuration_file_stops_the_daemon(tmp_path: Path) -> None:
    for text, words in (
        ('{"bogus": 1}', "the following directives don't match any configuration option: bogus"),
        ('{"default-runtime": "none"}', "specified default runtime 'none' does not exist"),
        ('{"runtimes": {"wherry": {"path": "/x"}}}', "runtime name 'wherry' is reserved"),
        ('{"security-profile": "lax"}', "invalid choice: 'lax'"),
    ):
        (tmp_path / "daemon.json").write_text(text)
        command = [sys.executable, "-m", "wherry.daemon", "--config-file", str(tmp_path / "daemon.json"), "--run-root", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (1, 2), done
        assert words in done.stderr
