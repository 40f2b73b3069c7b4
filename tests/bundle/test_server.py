"""The shell script and the server it asks."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bundle.harness import Runtime, bundle_config, leftovers
from tests.runtime.harness import config, make_root
from tests.system.waiting import until

pytestmark = pytest.mark.root
TREE = Path(__file__).resolve().parents[2]
SCRIPT = TREE / "bin" / "wherry-runtime"


class Door:
    """The script beside this Python, with a directory of its own for the server, whose module is ``server``."""

    def __init__(self, runtime: Runtime, server: str = "wherry.bundle.server") -> None:
        self.runtime = runtime
        self.directory = runtime.place / "server"
        self.script = runtime.place / "bin" / "wherry-runtime"
        self.script.parent.mkdir()
        shutil.copy(SCRIPT, self.script)
        (self.script.parent / "python").write_text(
            "#!/bin/sh\nshift 2\nmodule=$1\nshift\n"
            f"[ $module != wherry.bundle.server ] || {{ module={server}; export PYTHONPATH={TREE}; }}\n"
            f'exec {sys.executable} -m $module "$@"\n'
        )  # without -I: it has the source's path
        (self.script.parent / "python").chmod(0o755)

    def command(self, configuration: dict[str, object]) -> list[str]:
        bundle = self.runtime.bundle(configuration)
        return [str(self.script), "--root", str(self.runtime.place / "state"), "run", "--bundle", str(bundle), f"t-{bundle.name}"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "WHERRY_RUNTIME_SERVER": str(self.directory)}

    def run(self, configuration: dict[str, object], **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(configuration), env=self.environment(), capture_output=True, text=True, timeout=60, check=False, **more
        )

    def warm(self) -> int:
        """The server's pid, once it listens."""
        assert self.run(bundle_config("true")).returncode == 0
        until((self.directory / "server").exists)
        return int((self.directory / "server").read_text().split()[0])


@pytest.fixture
def door(runtime: Runtime) -> Iterator[Door]:
    made = Door(runtime)
    yield made
    until(lambda: not end_processes(str(runtime.place)))


@pytest.fixture(params=["wherry.bundle.server", "tests.bundle.nested"])
def either(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[Door]:
    """With containers that are built, and with first processes that are interpreters."""
    made = Door(runtime, request.param)
    yield made
    until(lambda: not end_processes(str(runtime.place)))


def end_processes(place: str) -> bool:
    """Kill servers and workers of the test, also one that is just being started; whether there were any."""
    found = [Path(one) for one in leftovers(Path(place)) if one.startswith("/proc/")]
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.name), signal.SIGKILL)
    return bool(found)


def parent_of_first(door: Door, **more: object) -> tuple[str, subprocess.CompletedProcess[str]]:
    """Who made the container: the name of the parent of its first process, from a hook that sees it."""
    configuration = bundle_config("sh", "-c", "echo out; echo err >&2; cat; ulimit -n; exit 7")
    record = door.runtime.place / "parent"
    script = f"cat /proc/$PPID/comm > {record}"
    configuration["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    done = door.run(configuration, **more)
    return record.read_text().strip(), done


def test_a_warm_server_takes_the_callers_place(door):
    first, cold = parent_of_first(door, input="typed ")
    door.warm()
    second, warm = parent_of_first(door, input="typed ")
    assert first != second == "wherry-run"
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert warm.returncode == 7
    assert warm.stdout.startswith("out\ntyped ")


def test_nothing_inside_tells_a_warm_run_from_a_cold_one(either):
    script = """
        grep -E 'Cap|Seccomp|NoNewPrivs|Groups|Umask|SigBlk|SigIgn|SigCgt|Cpus_allowed:|NStgid' /proc/self/status; ulimit -a
        cut -d' ' -f 5- /proc/self/mountinfo | sed 's/master:[0-9]*//'; cat /proc/self/cgroup /proc/self/oom_score_adj
        cut -d' ' -f 18,19,41 /proc/self/stat; ls /proc/self/fd; ls -l /proc/self/ns | grep -c .; cat /proc/1/cmdline; hostname; env; tty
        ip link | grep -c LOOPBACK,UP"""

    def seen() -> tuple[list[str], str]:
        configuration = bundle_config("sh", "-c", script, rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}])
        configuration["linux"]["cgroupsPath"] = f"/wherry-test-bundle-{os.getpid()}/same"
        configuration["linux"]["seccomp"] = config()["linux"]["seccomp"]
        command = ["nice", "-n", "5", "prlimit", "--core=4096:8192", *either.command(configuration)]
        done = subprocess.run(
            command, env=either.environment(), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
        assert "CapBnd" in done.stdout
        return sorted(done.stdout.splitlines()), done.stderr

    cold = seen()
    either.warm()
    (either.script.parent / "python").unlink()  # nobody can do it but the server
    assert seen() == cold


def worker_of(door: Door, *before: str, umask: int = 0o022) -> tuple[str, str, str]:
    """Who made a container, a limit that it has, and the umask of its hooks."""
    configuration = bundle_config("sh", "-c", "ulimit -c")
    record = door.runtime.place / "worker"
    script = f"echo $PPID $(umask) > {record}"
    configuration["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    done = subprocess.run(
        [*before, *door.command(configuration)], env=door.environment(), capture_output=True, text=True, timeout=60, check=True, umask=umask
    )
    worker, hooks_umask = record.read_text().split()
    return worker, done.stdout.strip(), hooks_umask


def test_a_worker_serves_again_unless_something_of_its_caller_stays_with_it(door):
    door.warm()
    (door.script.parent / "python").unlink()
    plain = [worker_of(door, umask=mask) for mask in (0o022, 0o077) * 3]
    assert len({worker for worker, _, _ in plain}) <= 3
    assert [(limit, mask) for _, limit, mask in plain] == [(plain[0][1], "0022"), (plain[0][1], "0077")] * 3
    limited, limit, _ = worker_of(door, "prlimit", "--core=4096:8192")
    assert limit != plain[0][1]
    after = [worker_of(door) for _ in range(4)]
    assert limited not in {worker for worker, _, _ in after}
    assert {limit for _, limit, _ in after} == {plain[0][1]}


def test_a_filter_is_compiled_anew_when_another_is_wanted(door):
    door.warm()
    (door.script.parent / "python").unlink()
    for call, text in (("mkdir", "mkdir"), ("chmod", "chmod"), ("mkdir", "mkdir")):
        configuration = bundle_config("sh", "-c", "mkdir /dev/shm/a; chmod 700 /dev/shm; exit 0")
        names = [call, f"{call}at", f"f{call}at"]
        configuration["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}],
        }
        assert [line.split(":")[0] for line in door.run(configuration).stderr.splitlines()] == [text]


def test_what_was_made_ready_for_another_container_does_not_show(either):
    """A first process expects a container like the one before: its file systems, and the directories that they are mounted on."""
    script = "ls -l /dev | cut -d' ' -f 1,3,4; ls /dev; hostname; cut -d' ' -f 5- /proc/self/mountinfo | sed 's/master:[0-9]*//'; env; id"

    def seen(change: int) -> list[str]:
        configuration = bundle_config("sh", "-c", script)
        mounts = configuration["mounts"]
        if change == 1:
            configuration["mounts"] = [one for one in mounts if one["destination"] not in ("/dev/shm", "/dev/mqueue")]
        elif change == 2:
            configuration["mounts"] = [{**one, "options": [*one["options"], "ro"]} if one["type"] == "sysfs" else one for one in mounts]
            configuration["hostname"] = "other"
            configuration["linux"]["devices"] = [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}]
        elif change == 3:
            configuration["process"]["user"] = {"uid": 7, "gid": 8}
            configuration["process"]["env"].append("HOME=/somewhere")
        configuration["linux"]["cgroupsPath"] = f"/wherry-test-bundle-{os.getpid()}/same"
        done = either.run(configuration)
        assert (done.returncode, done.stderr) == (0, "")
        return sorted(done.stdout.splitlines())

    either.directory.mkdir(mode=0o755)  # not ours alone: nobody leaves a server here
    cold = [seen(change) for change in range(4)]
    either.directory.rmdir()
    assert len({tuple(one) for one in cold}) == 4
    either.warm()
    (either.script.parent / "python").unlink()
    for change in (0, 0, 1, 2, 2, 2, 1, 3, 0, 0, 3):  # each right after itself, and after another
        assert seen(change) == cold[change]


LOOK = """
    grep -E 'Cap|Seccomp|NoNewPrivs|Groups|Umask|Sig[BIC]|NSpid' /proc/self/status; id; umask; pwd; ulimit -a; env
    stat -L -c '%u %F' /proc/self/fd/*
    cut -d' ' -f 3-8,18,19 /proc/self/stat; cat /proc/1/cmdline /proc/self/cgroup; ls /proc /dev /proc/1/fd
    stat -c '%a %u %n' /etc /tmp; touch /tmp/x; echo $?
    cut -d' ' -f 5- /proc/self/mountinfo | sed 's/master:[0-9]*//'; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    cat; exit 5"""
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]
KINDS_OF_SETS = ("bounding", "permitted", "inheritable", "ambient")
PROGRAMS = {
    "not found": ["nope"],
    "no such file": ["/nope", "a"],
    "a directory": ["/bin"],
    "not executable": ["/etc/plain"],
    "no interpreter": ["badsh"],
    "not a program": ["/etc/exec"],
    "not for this user": ["/etc/secret"],
    "not for this user, by name": ["secret"],
    "ended by a signal": ["sh", "-c", "sh -c 'kill -9 $$'"],
    "plain": ["sh", "-c", LOOK],
    "with a null byte": ["echo", "a\0b"],
}
PROCESSES = {
    "user": {"user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 2000], "umask": 0o27}, "cwd": "/data"},
    "ambient": {
        "user": {"uid": 7, "gid": 8},
        "capabilities": dict.fromkeys(KINDS_OF_SETS, CAPABILITIES),
    },
    "no capabilities": {"capabilities": {}},
    "no new privileges": {"noNewPrivileges": True, "user": {"uid": 3, "gid": 3}},
    "limits": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 1 << 63}]},
    "too high a limit": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 66}]},
    "environment": {"env": ["PATH=/nowhere:/bin", "HOME=/h", "A=b=c", "B="], "cwd": "/made/for/it"},
    "no environment": {"env": []},
    "not a directory": {"cwd": "/etc/passwd"},
    "score": {"oomScoreAdj": 100},
    "scheduling": {"scheduler": {"policy": "SCHED_BATCH", "nice": 3}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}},
    "sets that differ": {
        "user": {"uid": 0, "gid": 5, "additionalGids": [0, 6], "umask": 0},
        "capabilities": {
            **{"bounding": [*CAPABILITIES, "CAP_SETUID"], "permitted": [*CAPABILITIES, "CAP_FOWNER"]},
            **{"effective": ["CAP_KILL", "CAP_FOWNER"], "inheritable": ["CAP_CHOWN", "CAP_KILL"], "ambient": ["CAP_KILL", "CAP_SETUID"]},
        },
    },
    "no new privileges, ambient": {
        "noNewPrivileges": True,
        "user": {"uid": 7, "gid": 8},
        "capabilities": dict.fromkeys(KINDS_OF_SETS, CAPABILITIES),
    },
    "no such group": {"user": {"uid": 0, "gid": 2**32 - 1}},
    "no such further group": {"user": {"uid": 5, "gid": 5, "additionalGids": [2**31]}},
    "every limit": {
        "rlimits": [{"type": f"RLIMIT_{one}", "soft": 1 << 20, "hard": 1 << 21} for one in ("FSIZE", "MSGQUEUE", "STACK")],
    },
    "a path with nothing in it": {"env": ["PATH=", "HOME=", "=x", "y"], "args": ["./bin/id"]},
}
LINUX = {
    "no filter": {"seccomp": None},
    "no cgroup namespace": {"namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc")]},
    "the host's network": {"namespaces": [{"type": kind} for kind in ("mount", "uts", "pid", "ipc", "cgroup")], "sysctl": {}},
    "a bad sysctl": {"sysctl": {"net.nope": "1"}},
    "slave": {"rootfsPropagation": "rslave"},
    "personality": {"personality": {"domain": "LINUX"}},
    "one process": {"resources": {"pids": {"limit": 1}}},
    "bare": {"maskedPaths": [], "readonlyPaths": []},
    "a logged filter": {
        "seccomp": {
            **{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"]},
            "syscalls": [{"names": ["mknod", "mknodat", "unlinkat"], "action": "SCMP_ACT_ERRNO"}],
        }
    },
}
MOUNTS = {
    "a bind": [{"destination": "/tmp/b", "source": "/proc/sys/kernel/random/uuid", "options": ["bind", "ro"]}],
    "no source": [{"destination": "/tmp/b", "source": "/nope", "options": ["bind"]}],
    "copied up": [{"destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "mode=755"]}],
    "two of proc": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
}


@pytest.fixture(scope="module")
def differing() -> list[dict[str, object]]:
    """Configs, each unlike the others in one thing, whose root is still to be named."""
    found = []
    changes = [
        *({"process": {"args": args}} for args in PROGRAMS.values()),
        *({"process": fields} for fields in PROCESSES.values()),
        *({"linux": fields} for fields in LINUX.values()),
        *({"mounts": entries} for entries in MOUNTS.values()),
        *({"hooks": {"createRuntime": [{"path": "/bin/false"}]}, "root": {}}, {"hooks": {"poststop": [{"path": "/bin/true"}]}}),
        *({"root": {"readonly": True}}, {"hostname": "", "domainname": "example.org"}, {"annotations": {"a": "b"}}),
    ]
    for change in changes:
        configuration = bundle_config("sh", "-c", LOOK)
        configuration["linux"]["seccomp"] = config()["linux"]["seccomp"]
        configuration["linux"]["cgroupsPath"] = f"/wherry-test-bundle-{os.getpid()}/same"
        for key, value in change.items():
            if isinstance(value, dict):
                configuration.setdefault(key, {}).update(value)
            else:
                configuration[key] = [*configuration[key], *value] if key == "mounts" else value
        if change.get("process", {}).get("args") in (PROGRAMS["not for this user"], PROGRAMS["not for this user, by name"]):
            configuration["process"]["user"] = {"uid": 1000, "gid": 1000}
        found.append(configuration)
    return found


def test_a_warm_container_is_as_a_cold_one(door, differing):
    """In what it sees, in its end, and in the words of its failure."""
    root = door.runtime.place / "root"
    root.mkdir()
    root.chmod(0o755)
    door.runtime.image = make_root(root)
    (root / "etc/exec").write_text("\x7fELF nothing")
    (root / "etc/exec").chmod(0o755)
    for path in ("etc/secret", "bin/secret"):
        (root / path).write_text("#!/bin/sh\necho in")
        (root / path).chmod(0o700)

    def seen(configuration: dict[str, object]) -> tuple[int, list[str], str]:
        command = door.command(configuration)
        done = subprocess.run(command, env=door.environment(), capture_output=True, text=True, timeout=60, check=False, input="typed\n")
        out = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", line) for line in done.stdout.splitlines()]
        return done.returncode, sorted(out), done.stderr.replace(command[-1], "ID")

    door.directory.mkdir(mode=0o755)  # not ours alone: nobody leaves a server here
    cold = [seen(configuration) for configuration in differing]
    assert {code for code, _, _ in cold} >= {0, 1, 5, 255}
    door.directory.rmdir()
    door.warm()
    (door.script.parent / "python").unlink()  # nobody can do it but the server
    for order in (1, -1):
        for configuration, expected in list(zip(differing, cold, strict=True))[::order]:
            found = seen(configuration)
            assert [one for one in found[1] if one not in expected[1]] == [one for one in expected[1] if one not in found[1]] == []
            assert found == expected


def test_each_run_of_one_bundle_has_a_group_of_its_own(door):
    door.warm()
    (door.script.parent / "python").unlink()
    configuration = bundle_config("cat", "/proc/1/cgroup")
    del configuration["linux"]["cgroupsPath"]
    configuration["linux"]["namespaces"] = [one for one in configuration["linux"]["namespaces"] if one["type"] != "cgroup"]
    command = door.command(configuration)
    for number in range(4):
        ident = f"wherry-test-bundle-{os.getpid()}-{number}"
        done = subprocess.run([*command[:-1], ident], env=door.environment(), capture_output=True, text=True, timeout=60, check=True)
        assert f":/{ident}\n" in done.stdout


def test_signals_reach_the_program_and_failures_the_caller(either):
    either.warm()
    configuration = bundle_config("sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(either.command(configuration), env=either.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "got\n"
    assert process.returncode == 3
    failed = either.run(bundle_config("/nope"))
    assert (failed.returncode, 'exec: "/nope": stat /nope: no such file or directory' in failed.stderr) == (1, True)


def test_whoever_differs_does_it_alone(door):
    door.warm()
    for change in (["unshare", "--uts"], ["setpriv", "--no-new-privs"], ["setpriv", "--bounding-set", "-sys_time"]):
        configuration = bundle_config("true")
        configuration["hooks"] = {
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat /proc/$PPID/comm > {door.directory}.who"]}]
        }
        done = subprocess.run([*change, *door.command(configuration)], env=door.environment(), timeout=60, check=False)
        assert done.returncode == 0, change
        assert Path(f"{door.directory}.who").read_text().strip() != "wherry-run", change


def test_a_dead_server_is_nobodys_trouble(door):
    pid = door.warm()
    os.kill(pid, signal.SIGKILL)
    _, done = parent_of_first(door, input="typed ")
    assert (done.returncode, done.stdout.startswith("out\ntyped ")) == (7, True), done.stderr


def test_a_server_is_replaced_while_its_container_runs(door):
    pid = door.warm()
    configuration = bundle_config("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(door.command(configuration), env=door.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(pid, signal.SIGKILL)
        assert door.run(bundle_config("true")).returncode == 0
        until(lambda: (door.directory / "server").exists() and not (door.directory / "server").read_text().startswith(f"{pid} "))
        process.terminate()
    assert process.returncode == 3


@pytest.mark.slow  # a server stays for 20 s
def test_callers_of_another_world_do_not_keep_a_server(door):
    """It cannot serve them: they would never get one that can."""
    pid = door.warm()
    pidfd = os.pidfd_open(pid)
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + 60
    while not waiting.poll(0):
        assert time.monotonic() < deadline
        command = ["unshare", "--uts", *door.command(bundle_config("true"))]
        assert subprocess.run(command, env=door.environment(), timeout=60, check=False).returncode == 0
    os.close(pidfd)


def test_what_systemd_gave_one_caller_is_not_the_next_ones(door):
    """A server keeps the environment of who left it, but for this."""
    name = f"wherry-test-{os.getpid()}"
    given = {"LISTEN_FDS": "0", "LISTEN_PID": "1", "NOTIFY_SOCKET": f"@{name}"}
    command = door.command(bundle_config("true"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        subprocess.run(command, env={**door.environment(), **given}, capture_output=True, timeout=60, check=True)
    until((door.directory / "server").exists)
    server = int((door.directory / "server").read_text().split()[0])
    kept = Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
    assert [one for one in kept if one.split(b"=")[0].decode() in given] == []
    done = door.run(bundle_config("env"))
    assert (done.returncode, "NOTIFY_SOCKET" in done.stdout) == (0, False), done.stderr


def test_a_limit_that_nobody_can_live_with_ends_the_container_and_not_who_makes_it(either):
    either.warm()
    configuration = bundle_config("true")
    configuration["linux"]["resources"]["memory"] = {"limit": 100}
    done = either.run(configuration)
    assert (done.returncode, "its server ended" in done.stderr) == (137, False), done.stderr
