"""Docker's own command line, unchanged, against a real daemon: outputs, messages and codes as the real engine gives them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import tarfile
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from io import BytesIO
from pathlib import Path
from types import TracebackType

import pytest
from tests.compat.docker_cli import DockerCli, find_docker, find_plugin
from tests.conftest import Daemon

pytestmark = pytest.mark.root
FAILED_START = (
    "docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: "
)


@pytest.fixture
def docker(engine: Daemon, tmp_path: Path) -> DockerCli:
    program = find_docker()
    if program is None:
        pytest.skip("needs Docker's command line: no `docker` on PATH, nor in $PEERS_CLIENTS")
    config = tmp_path / "config"
    config.mkdir()
    return DockerCli(engine=engine, program=program, config=config)


@pytest.fixture
def sleeper(docker: DockerCli) -> Iterator[str]:
    ident = docker.out("run", "-d", "bb", "sleep", "1000")
    yield ident
    docker.run("rm", "-f", "-v", ident)


class Screen:
    """A `docker` command in a terminal of its own."""

    def __init__(self, docker: DockerCli, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self.seen = ""
        self.ours, theirs = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", docker.program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=docker.full_environment(),
        )
        os.close(theirs)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(60)
        os.close(self.ours)

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def resize_until(self, pattern: str, rows: int, columns: int) -> None:
        """Again and again: the CLI asks for the size first and listens for changes then, and misses one in between."""
        self.expect(pattern, meanwhile=lambda: (self.resize(rows, columns - 1), self.resize(rows, columns)))

    def expect(self, pattern: str, *, seconds: float = 60, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Read until ``pattern`` is seen, and forget what came before its end."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.seen)) is None:
            meanwhile()
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{self.seen}"
            if select.select([self.ours], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.ours, 65536).decode(errors="replace")
                except OSError:  # the program closed its terminal
                    assert re.search(pattern, self.seen), f"{pattern!r} did not come:\n{self.seen}"
        self.seen = self.seen[found.end() :]

    def code(self) -> int:
        return self.process.wait(60)


# --- run


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 7"], 7, ""),
        (["nosuchcmd"], 127, 'exec: "nosuchcmd": executable file not found in $PATH'),
        (["/x"], 127, 'exec: "/x": stat /x: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory: permission denied'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_run_ends_with_the_programs_code_and_only_dockers_words(docker: DockerCli, command: list[str], code: int, message: str) -> None:
    result = docker.run("run", "--rm", "bb", *command)
    expected = f"{FAILED_START}{message}\n\nRun 'docker run --help' for more information\n" if message else ""
    assert (result.code, result.out, result.err) == (code, "", expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-m", "1m"], "Minimum memory limit allowed is 6MB"),
        (["--memory-reservation", "1m"], "Minimum memory reservation allowed is 6MB"),
        (["-m", "20m", "--memory-swap", "10m"], "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (["--cpuset-cpus", "abc"], "Invalid value abc for cpuset cpus: invalid format: abc"),
        (["--cpuset-mems", "777"], "Requested memory nodes are not available - requested 777, available: "),
        (["--isolation", "bogus"], "invalid isolation (bogus): linux only supports 'default'"),
        (["--tmpfs", "/t:bogus"], 'invalid tmpfs option "bogus"'),
        (["--tmpfs", "rel"], "invalid mount path: 'rel' mount path must be absolute"),
        (["-u", "nosuch"], "unable to find user nosuch: no matching entries in passwd file"),
        (["--cap-add", "bogus"], 'invalid CapAdd: unknown capability: "CAP_BOGUS"'),
        (["--volumes-from", "nosuch"], "No such container: nosuch"),
        (["--network", "container:nosuch"], "No such container: nosuch"),
        (["--network", "container:x", "--dns", "1.1.1.1"], "conflicting options: dns and the network mode"),
        (["-v", "/x:rel"], "invalid volume specification: '/x:rel': invalid mount config for type \"bind\": invalid mount path: 'rel' "),
    ],
)
def test_a_bad_request_is_refused_in_dockers_words_and_leaves_nothing(docker: DockerCli, flags: list[str], message: str) -> None:
    result = docker.run("run", "--rm", "--name", "cli-refused", *flags, "bb", "true")
    assert result.code == 125
    assert result.err.startswith("docker: Error response from daemon: ")
    assert message in result.err
    assert "Unable to find image" not in result.err
    assert docker.out("ps", "-aq", "--filter", "name=cli-refused") == ""


def test_input_goes_through_whole_and_ends(docker: DockerCli) -> None:
    data = os.urandom(3 << 20)
    assert docker.out("run", "-i", "--rm", "bb", "wc", "-c", stdin=data) == str(len(data))
    assert docker.run("run", "--rm", "bb", "cat", stdin=b"nobody reads this").out == ""


def test_a_read_only_root_has_read_only_files_in_etc(docker: DockerCli) -> None:
    script = "for f in hosts hostname resolv.conf; do (echo x >> /etc/$f) 2>/dev/null && echo $f; done; echo done"
    assert docker.out("run", "--rm", "--read-only", "bb", "sh", "-c", script) == "done"


def test_a_host_name_with_a_domain_is_found_by_its_first_part(docker: DockerCli) -> None:
    assert docker.out("run", "--rm", "-h", "foo.bar", "bb", "tail", "-n", "1", "/etc/hosts").endswith("\tfoo.bar foo")


# --- terminals


def test_a_terminal_takes_keys_sizes_and_the_code(docker: DockerCli) -> None:
    with Screen(docker, "run", "-it", "--rm", "bb", "sh", rows=31, columns=77) as screen:
        screen.expect("# ")
        screen.type("stty size\r")
        screen.expect("31 77\r\n")
        screen.type("while [ \"$(stty size)\" != '40 100' ]; do :; done; echo resi''zed\r")
        screen.resize_until("resized\r\n", 40, 100)
        screen.type("exit 42\r")
        assert screen.code() == 42


def test_detaching_leaves_the_program_running_and_attach_comes_back(docker: DockerCli) -> None:
    with Screen(docker, "run", "-it", "--name", "cli-detach", "bb", "sh") as screen:
        screen.expect("# ")
        screen.type("\x10\x11")
        assert screen.code() == 0
    with Screen(docker, "attach", "--detach-keys", "ctrl-x,x", "cli-detach") as again:
        again.type("echo he''re\r")
        again.expect("here\r\n")
        again.type("\x18x")
        again.expect("read escape sequence")
        assert again.code() == 1
    assert docker.out("inspect", "-f", "{{.State.Running}}", "cli-detach") == "true"
    docker.out("rm", "-f", "cli-detach")


def test_exec_has_a_terminal_of_its_own(docker: DockerCli, sleeper: str) -> None:
    with Screen(docker, "exec", "-it", sleeper, "sh") as screen:
        screen.expect("# ")
        screen.type("tty\r")
        screen.expect("/dev/pts/")
        screen.expect("# ")
        screen.type("\x04")
        assert screen.code() == 0


# --- containers


def test_a_failed_start_stays_as_created_with_its_error(docker: DockerCli) -> None:
    docker.run("run", "--name", "cli-failed", "bb", "nosuchcmd")
    (shown,) = json.loads(docker.out("inspect", "cli-failed"))
    state = shown["State"]
    assert (state["Status"], state["ExitCode"], state["StartedAt"]) == ("created", 127, "0001-01-01T00:00:00Z")
    assert state["Error"].endswith('exec: "nosuchcmd": executable file not found in $PATH')
    docker.out("rm", "cli-failed")


def test_exec_codes_are_those_of_run(docker: DockerCli, sleeper: str) -> None:
    assert docker.run("exec", sleeper, "sh", "-c", "exit 42").code == 42
    absent = docker.run("exec", sleeper, "nosuchcmd")
    assert absent.code == 127
    assert absent.out == (
        'OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuchcmd": executable file not found in $PATH\r\n'
    )
    assert docker.run("exec", sleeper, "/etc/passwd").code == 126
    unknown = docker.run("exec", "-u", "nosuch", sleeper, "true")
    message = "Error response from daemon: unable to find user nosuch: no matching entries in passwd file\n"
    assert (unknown.code, unknown.out, unknown.err) == (1, "", message)
    assert docker.out("exec", "-u", "al:extra", sleeper, "id", "-g") == "2000"
    assert docker.run("exec", "-i", sleeper, "cat", stdin=b"in").out == "in"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rm", "nosuch"], "No such container: nosuch"),
        (["kill", "nosuch"], "cannot kill container: nosuch: No such container: nosuch"),
        (["rmi", "nosuch"], "No such image: nosuch:latest"),
        (["volume", "rm", "nosuch"], "get nosuch: no such volume"),
        (["network", "rm", "nosuch"], "network nosuch not found"),
        (["ps", "--filter", "bogus=1"], "invalid filter 'bogus'"),
        (["ps", "--filter", "is-task=x"], "invalid filter 'is-task=[x]'"),
        (["commit", "--change", "FROM x", "nosuch"], "No such container: nosuch"),
    ],
)
def test_what_is_not_there_is_told_in_dockers_words(docker: DockerCli, arguments: list[str], message: str) -> None:
    result = docker.run(*arguments)
    assert result.code == 1
    assert f"Error response from daemon: {message}" in result.err


def test_names_conflict_as_dockers_do(docker: DockerCli) -> None:
    ident = docker.out("create", "--name", "cli-name", "bb", "true")
    other = docker.out("create", "--name", "cli-other", "bb", "true")
    conflict = (
        f'Conflict. The container name "/cli-name" is already in use by container "{ident}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert conflict in docker.run("create", "--name", "cli-name", "bb", "true").err
    assert f"Error when allocating new name: {conflict}" in docker.run("rename", "cli-other", "cli-name").err
    docker.out("rm", ident, other)


def test_stop_asks_before_it_kills_even_without_patience(docker: DockerCli) -> None:
    began = f"{time.time():.9f}"
    docker.out("run", "-d", "--name", "cli-stop", "bb", "sleep", "1000")
    docker.out("stop", "-t", "0", "cli-stop")
    docker.out("rm", "cli-stop")
    told = docker.out(
        "events", "--since", began, "--until", f"{time.time():.9f}", "--filter", "container=cli-stop", "--format", "{{.Action}}"
    )
    assert [one for one in told.split("\n") if one not in ("connect", "disconnect")] == [
        *("create", "start", "kill", "kill", "stop", "die", "destroy")
    ]


def test_volumes_are_told_when_they_are_mounted(docker: DockerCli) -> None:
    began = f"{time.time():.9f}"
    docker.out("run", "--rm", "-v", "cli-told:/v:ro", "bb", "true")
    told = docker.out("events", "--since", began, "--until", f"{time.time():.9f}", "--filter", "volume=cli-told", "--format", "{{json .}}")
    events = [json.loads(line) for line in told.split("\n")]
    assert [one["Action"] for one in events] == ["create", "mount", "unmount"]
    attributes = events[1]["Actor"]["Attributes"]
    assert (attributes["destination"], attributes["read/write"], attributes["driver"]) == ("/v", "false", "local")
    docker.out("volume", "rm", "cli-told")


def test_links_are_shown_from_both_ends(docker: DockerCli) -> None:
    docker.out("run", "-d", "--name", "cli-db", "bb", "sleep", "1000")
    docker.out("create", "--name", "cli-web", "--link", "cli-db:database", "bb", "true")
    assert docker.out("inspect", "-f", "{{.HostConfig.Links}}", "cli-web") == "[/cli-db:/cli-web/database]"
    docker.out("rm", "-f", "cli-db", "cli-web")


# --- files


def test_cp_follows_dockers_rules(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("f")
    (tmp_path / "file").write_text("x")
    ident = docker.out("create", "bb", "true")

    def copied(source: str, target: str) -> tuple[int, str]:
        result = docker.run("cp", source, target, cwd=tmp_path)
        return result.code, [line for line in result.err.split("\n") if line and not line.startswith("time=")][-1:] and result.err.strip()

    assert docker.run("cp", "file", f"{ident}:/tmp/new", cwd=tmp_path).code == 0
    assert docker.run("cp", "d", f"{ident}:/tmp/made", cwd=tmp_path).code == 0
    assert docker.run("cp", "d", f"{ident}:/tmp/made", cwd=tmp_path).code == 0
    assert docker.run("cp", "d/.", f"{ident}:/tmp/made", cwd=tmp_path).code == 0
    assert "no such directory" in copied("file", f"{ident}:/tmp/absent/")[1]
    assert "no such directory" in copied("file", f"{ident}:/tmp/new/")[1]
    assert "cannot copy directory" in copied("d", f"{ident}:/tmp/new")[1]
    assert "Could not find the file /absent in container " in copied("file", f"{ident}:/absent/f")[1]
    assert "must be a directory" in docker.run("cp", "-", f"{ident}:/tmp/new", stdin=b"x").err
    assert "unexpected EOF" in docker.run("cp", "-", f"{ident}:/tmp", stdin=b"x").err
    assert docker.run("cp", "-a", "file", f"{ident}:/tmp/kept", cwd=tmp_path).code == 0
    assert _names(docker, f"{ident}:/tmp/made") == ["made/", "made/d/", "made/d/f", "made/f"]
    assert _names(docker, f"{ident}:/tmp/made/.") == ["./", "./d/", "./d/f", "./f"]
    assert _names(docker, f"{ident}:/tmp/made/")[0] == "made/"
    docker.out("rm", ident)


def _names(docker: DockerCli, source: str) -> list[str]:
    done = subprocess.run([docker.program, "cp", source, "-"], env=docker.full_environment(), capture_output=True, timeout=60, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as tar:
        return sorted(one.name + ("/" if one.isdir() else "") for one in tar)


def test_what_may_not_be_written_is_named(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    ident = docker.out("run", "-d", "--read-only", "-v", f"{tmp_path}:/b:ro", "-v", "cli-cp:/v", "bb", "sleep", "1000")
    assert "mounted volume is marked read-only" in docker.run("cp", "f", f"{ident}:/b/f", cwd=tmp_path).err
    assert "container rootfs is marked read-only" in docker.run("cp", "f", f"{ident}:/f", cwd=tmp_path).err
    assert docker.run("cp", "f", f"{ident}:/v/f", cwd=tmp_path).code == 0
    docker.out("rm", "-f", ident)
    docker.out("volume", "rm", "cli-cp")


# --- builds


def test_the_classic_builder_prints_its_steps(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("hello\n")
    (tmp_path / "Dockerfile").write_text("FROM bb\nCOPY f /f\nRUN cat /f\nCMD cat /f\n")
    built = docker.run("build", "-t", "cli-built", ".", cwd=tmp_path)
    assert built.code == 0, built.err
    lines = re.sub(r"\b[0-9a-f]{12}\b", "ID", built.out).split("\n")
    assert lines[1:] == [
        *("Step 1/4 : FROM bb", " ---> ID"),
        *("Step 2/4 : COPY f /f", " ---> ID"),
        *("Step 3/4 : RUN cat /f", " ---> Running in ID", "hello", " ---> Removed intermediate container ID", " ---> ID"),
        *("Step 4/4 : CMD cat /f", " ---> ID"),
        *("Successfully built ID", "Successfully tagged cli-built:latest", ""),
    ]
    assert docker.run("build", "-t", "cli-built", ".", cwd=tmp_path).out.count(" ---> Using cache") == 3
    assert docker.out("run", "--rm", "cli-built") == "hello"
    docker.out("rmi", "cli-built")


def test_a_failing_step_gives_its_code(docker: DockerCli) -> None:
    result = docker.run("build", "-", stdin=b"FROM bb\nRUN exit 3\n")
    assert result.code == 3
    assert "The command '/bin/sh -c exit 3' returned a non-zero code: 3" in result.err
    assert "Removed intermediate container" not in result.out


def test_buildx_is_told_that_its_protocol_is_not_spoken(docker: DockerCli, tmp_path: Path) -> None:
    plugin = find_plugin("docker-buildx")
    if plugin is None:
        pytest.skip("needs the buildx plugin")
    docker.add_plugin(plugin)
    docker.environment = {}
    (tmp_path / "Dockerfile").write_text("FROM bb\n")
    result = docker.run("build", ".", cwd=tmp_path)
    assert result.code == 1
    assert "build with DOCKER_BUILDKIT=0" in result.err
    docker.environment = {"DOCKER_BUILDKIT": "0"}
    assert docker.run("build", "-q", ".", cwd=tmp_path).code == 0


def test_a_profile_that_forbids_one_call_forbids_no_other(docker: DockerCli, tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    result = docker.run("run", "--rm", "--security-opt", f"seccomp={tmp_path}/profile.json", "bb", "mkdir", "/d")
    assert (result.code, result.err) == (1, "mkdir: can't create directory '/d': Operation not permitted\n")


def test_attaching_to_no_stream_ends_at_once(docker: DockerCli) -> None:
    ident = docker.out("create", "bb", "true")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(docker.engine.socket_path)
        client.sendall(f"POST /containers/{ident}/attach?stream=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
        data = b""
        while chunk := client.recv(4096):
            data += chunk
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    docker.out("rm", ident)


@pytest.mark.parametrize("terminal", [False, True])
def test_an_attachment_ends_with_its_input_where_that_is_not_the_programs(docker: DockerCli, terminal: bool) -> None:
    """Docker lets a client go that says no more, and closes the program's input only for the client that started it."""
    ident = docker.out("run", "-dit" if terminal else "-di", "bb", "cat")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(docker.engine.socket_path)
        client.sendall(f"POST /containers/{ident}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\nhello\n".encode())
        data = b""
        while b"hello" not in data:
            data += client.recv(4096)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert docker.out("inspect", "-f", "{{.State.Status}}", ident) == "running"
    docker.out("rm", "-f", ident)


def test_pruning_by_label_leaves_the_build_cache(docker: DockerCli) -> None:
    docker.run("build", "-q", "-", stdin=b"FROM bb\nRUN echo cached\n")
    assert docker.out("system", "prune", "-f", "--filter", "label=nosuch").endswith("Total reclaimed space: 0B")
    assert "Using cache" in docker.run("build", "-", stdin=b"FROM bb\nRUN echo cached\n").out


def test_a_dockerfile_from_the_input_builds_in_its_context(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("here\n")
    built = docker.run("build", "-f", "-", ".", stdin=b"FROM bb\nCOPY f /f\nRUN cat /f\n", cwd=tmp_path)
    assert built.code == 0, built.err
    assert "here\n" in built.out


def test_a_host_name_resolves_on_a_network_of_ones_own(docker: DockerCli) -> None:
    docker.out("network", "create", "cli-names")
    docker.out("run", "-d", "--name", "cli-named", "-h", "cli-host", "--network", "cli-names", "bb", "sleep", "1000")
    shown = docker.out("inspect", "-f", '{{json (index .NetworkSettings.Networks "cli-names").DNSNames}}', "cli-named")
    assert json.loads(shown)[::2] == ["cli-named", "cli-host"]
    assert "1 packets received" in docker.out("run", "--rm", "--network", "cli-names", "bb", "ping", "-c", "1", "-W", "5", "cli-host")
    docker.out("rm", "-f", "cli-named")
    docker.out("network", "rm", "cli-names")
