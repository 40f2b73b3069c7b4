"""The shell script ``wherry`` and the server it asks."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.system.waiting import until

pytestmark = pytest.mark.root
BIN = Path(__file__).resolve().parents[2] / "bin"
SEEN = """#!/bin/sh
exec >>"$RECORD"
read -r asked; echo "$asked"
env -0 | tr '\\0\\n' '\\n_' | grep -Ev '^(PWD|WHERRY_COMMAND_SERVER)='
pwd; umask; ulimit -a; ls /proc/self/fd; cat /proc/self/cgroup
grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp|SigIgn|SigBlk|Cpus_allowed):' /proc/self/status
cut -d' ' -f 18,19,41 /proc/self/stat
"""


class Door:
    """The script beside this Python, in a directory with a space, with a server's directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.warm_dir = place / "warm"
        self.bin = place / "the bin"
        self.bin.mkdir()
        self.script = shutil.copy(BIN / "wherry", self.bin)
        self.cold = self.bin / "wherry-cold"
        text = (BIN / "wherry-cold").read_text()
        self.cold.write_text(text.replace("#!python", f"#!{sys.executable}"))
        self.cold.chmod(0o755)
        self.record = place / "record"
        helper = self.bin / "docker-credential-seen"
        helper.write_text(SEEN)
        helper.chmod(0o755)
        (place / "config").mkdir()
        (place / "config" / "config.json").write_text('{"credsStore": "seen"}')
        variables = {"PATH": f"{self.bin}:{os.environ['PATH']}", "RECORD": str(self.record), "DOCKER_CONFIG": str(place / "config")}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            **variables,
            "WHERRY_COMMAND_SERVER": str(self.warm_dir),
            "WHERRY_HOST": "unix:///nosuch",
        }

    def __call__(
        self, *words: str | bytes, prefix: tuple[str, ...] = (), variables: Mapping[str, str] | None = None, **more: object
    ) -> tuple[int, bytes, bytes]:
        options = {"env": {**self.environment, **(variables or {})}, "stdin": subprocess.DEVNULL, **more}
        done = subprocess.run([*prefix, self.script, *words], capture_output=True, timeout=60, check=False, **options)
        return done.returncode, done.stdout, done.stderr

    def popen(self, *words: str, **more: object) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen([self.script, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **more)

    def server(self) -> int | None:
        try:
            return int((self.warm_dir / "server").read_text().split()[0])
        except FileNotFoundError:
            return None

    def warm(self) -> int:
        """The server's pid, once it listens; from now on nobody else can do anything."""
        assert self("--version")[0] == 0
        until(lambda: self.server() is not None)
        self.cold.rename(self.cold.with_suffix(".away"))
        server = self.server()
        assert server is not None
        return server

    def is_cold(self, *words: str, **more: object) -> bool:
        """Whether the server left a command to the Python that is away."""
        return self(*words, **more)[0] == 127


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    if server := made.server():
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[socket.socket]:
    """A daemon's socket where nobody answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute"))
        listener.listen()
        yield listener


def test_nothing_tells_a_warm_command_from_a_cold_one(door: Door) -> None:
    gone = door.place / "gone"
    commands: list[tuple[tuple[str | bytes, ...], dict[str, object]]] = [
        ((), {}),
        (("--version",), {}),
        (("nosuch\n\udcff", ""), {}),
        ((b"no\xff\xc3\xa9",), {"variables": {"LC_ALL": "C"}}),
        (("run", "--help"), {}),
        (("rename", "", "a", "b"), {}),
        (("run", *(f"--label={n}" for n in range(3000))), {}),
        (("ps",), {}),
        (("volume", "prune"), {"prefix": ("sh", "-c", 'printf "x\\ny\\nz\\n" | { read -r line; "$@"; cat; }', "sh")}),
        (("logout", "a.test"), {"prefix": ("nice", "-n", "5", "prlimit", "--core=4096:8192", "--nofile=50:60"), "umask": 0o27}),
        (("logout", "a.test"), {"variables": {"TZ": "Asia/Tokyo", "A": "b\nc\udcff", "LANG": "C.UTF-8"}, "cwd": "/usr"}),
        (("logout", "a.test"), {"variables": {"PYTHONUNBUFFERED": "1", "LC_ALL": "no_WHERE.UTF-8"}}),
        (("logout", "a.test"), {"prefix": ("sh", "-c", f"mkdir {gone}; cd {gone}; rmdir {gone}; trap '' HUP USR1; exec \"$@\"", "sh")}),
    ]

    def results() -> tuple[list[object], str]:
        door.record.unlink(missing_ok=True)
        return [door(*words, **more) for words, more in commands], door.record.read_text(errors="surrogateescape")

    door.environment["WHERRY_COMMAND_SERVER"] = ""
    cold = results()
    assert cold[1].count("CapBnd") == 4 * 3  # a logout asks its helper to forget three spellings
    door.environment["WHERRY_COMMAND_SERVER"] = str(door.warm_dir)
    door.warm()
    for _ in range(2):  # a worker that served one caller serves the next
        assert results() == cold


@pytest.mark.parametrize("kind", ["warm", "cold"])
def test_signals_end_it_stop_it_and_let_it_go_on(door: Door, mute: socket.socket, kind: str) -> None:
    if kind == "warm":
        door.warm()
    else:
        door.environment["WHERRY_COMMAND_SERVER"] = ""
    for number, code in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        with door.popen("-H", f"unix://{door.place}/mute", "ps", start_new_session=True) as process, ended(process):
            connection = mute.accept()[0]
            with connection:
                assert connection.recv(4) == b"GET "
                if number == signal.SIGTERM:  # first it is stopped: not of its own process group, which has a parent in another session
                    process.send_signal(signal.SIGSTOP)
                    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
                    process.send_signal(signal.SIGCONT)
                while process.poll() is None:  # Python itself does not see one that comes just before it waits
                    process.send_signal(number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(1)
                assert process.returncode == code
                while connection.recv(1 << 16):
                    pass
            assert process.communicate() == (b"", b"")


def test_a_stop_from_a_shell_with_job_control_stops_the_worker(door: Door, mute: socket.socket) -> None:
    door.warm()
    with door.popen("-H", f"unix://{door.place}/mute", "ps", process_group=0) as process, ended(process):
        with mute.accept()[0] as connection:
            connection.recv(1)
            worker = caller(connection)
            process.send_signal(signal.SIGTSTP)
            assert os.WSTOPSIG(os.waitpid(process.pid, os.WUNTRACED)[1]) == signal.SIGTSTP
            until(lambda: state(worker) == "T")
            process.send_signal(signal.SIGCONT)
            until(lambda: state(worker) != "T")
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]")
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out.startswith(b"CONTAINER ID"), err) == (0, True, b"")


def test_a_workers_number_is_nobody_elses_as_long_as_its_caller_could_send_it_a_signal(door: Door, mute: socket.socket) -> None:
    server = door.warm()
    children = Path(f"/proc/{server}/task/{server}/children")
    with door.popen("-H", f"unix://{door.place}/mute", "ps") as process, ended(process):
        with mute.accept()[0] as connection:
            connection.recv(1)
            worker = caller(connection)
            process.send_signal(signal.SIGSTOP)
            os.kill(worker, signal.SIGINT)
            until(lambda: state(worker) == "Z")
            assert not door.is_cold("--version")  # the server goes on meanwhile
            assert not door.is_cold("--version")
            assert state(worker) == "Z"
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 130
            until(lambda: str(worker) not in children.read_text().split())


def test_an_interrupt_ends_a_command_also_when_it_comes_just_before_the_command_waits(door: Door, mute: socket.socket) -> None:
    door.warm()
    for _ in range(100):  # without the nudges, one of some 300 came between the last look for signals and the wait, and was lost
        with door.popen("-H", f"unix://{door.place}/mute", "ps") as process, ended(process), mute.accept()[0] as connection:
            connection.recv(1)
            os.kill(caller(connection), signal.SIGINT)
            assert process.wait(60) == 130


def caller(connection: socket.socket) -> int:
    """The process at the other end."""
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A test that fails does not wait for it."""
    try:
        yield
    finally:
        process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_whoever_differs_does_it_alone(door: Door) -> None:
    door.warm()
    assert not door.is_cold("--version")
    for prefix in (
        ("unshare", "--uts"),
        ("setpriv", "--no-new-privs"),
        ("setpriv", "--bounding-set", "-sys_time"),
        ("setpriv", "--regid", "1", "--clear-groups"),
        ("chrt", "--batch", "0"),
        ("sh", "-c", 'exec "$@" <&-', "sh"),
        ("sh", "-c", 'exec "$@" 3</dev/null /dev/fd/3', "sh"),
        ("env", "PYTHONPATH=/x"),
        ("env", "LC_ALL=en_US.ISO-8859-1"),
    ):
        assert door.is_cold("--version", prefix=prefix), prefix
    for words in (("daemon", "--help"), ("registry", "gc"), ("run", "--rm", "x")):
        assert door.is_cold(*words, prefix=("sh", "-c", 'trap "" INT; exec "$@"', "sh")), words
    ours, theirs = pty.openpty()
    assert door.is_cold("--version", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert not door.is_cold("--version")


def test_a_dead_server_is_nobodys_trouble_and_its_command_goes_on(door: Door, mute: socket.socket) -> None:
    server = door.warm()
    with door.popen("-H", f"unix://{door.place}/mute", "ps") as process, ended(process):
        with mute.accept()[0] as connection:
            connection.recv(1)
            os.kill(server, signal.SIGKILL)
            until(lambda: not Path(f"/proc/{server}").exists() or state(server) == "Z")
            assert door.is_cold("--version")
            door.cold.with_suffix(".away").rename(door.cold)
            assert door("--version")[0] == 0
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM


def test_a_worker_serves_again_unless_something_of_its_caller_stays_with_it(door: Door) -> None:
    server = door.warm()

    def workers() -> set[str]:
        return set(Path(f"/proc/{server}/task/{server}/children").read_text().split())

    seen = set()
    for prefix in (("sh", "-c", 'trap "" INT HUP; exec "$@"', "sh"), ("env", "A=b"), ("setsid", "--wait"), (), (), ()):
        assert not door.is_cold("--version", prefix=prefix)
        seen |= workers()
    assert len(seen) <= 3  # one, and those that were forked while it worked
    until(lambda: not door.is_cold("--version", prefix=("nice", "-n", "1")) and not workers() & seen)


def test_a_hundred_at_a_time_are_all_served(door: Door) -> None:
    door.warm()
    processes = [door.popen("--version") for _ in range(100)]
    outcomes = {(process.communicate(), process.returncode) for process in processes}
    assert len(outcomes) == 1
    assert outcomes.pop()[1] == 0


def test_a_variable_that_no_shell_could_have_is_passed_on(door: Door) -> None:
    """Cold: the shell drops it."""
    command = ["-H", "unix:///nosuch", "create", "--env", "my.setting", "image"]
    door.environment |= {"my.setting": "1", "WHERRY_COMMAND_SERVER": ""}
    door.cold.write_text(
        f"#!{sys.executable}\nimport os, wherry.cli.door as d\nd.complete = lambda w: print(os.environ['my.setting'], w)\nd.program()\n"
    )
    assert door(*command)[1].decode() == f"1 {command}\n"


def test_a_program_that_was_installed_anew_is_not_the_servers(door: Door) -> None:
    """Here as a user's own package of a Python without a virtual environment."""
    source = Path(__file__).resolve().parents[2] / "src" / "wherry"
    home = door.place / "home"
    package = home / ".local" / "lib" / f"python3.{sys.version_info[1]}" / "site-packages" / "wherry"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("web", "__pycache__"))
    door.environment["HOME"] = str(home)
    door.cold.write_text(door.cold.read_text().replace(sys.executable, os.path.realpath(sys.executable)))
    server = door.warm()
    assert not door.is_cold("--version")
    text = (package / "cli" / "program.py").read_text()
    (package / "cli" / "program.py").write_text(text.replace("0.1.0", "9.9.9"))
    assert door.is_cold("--version")
    until(lambda: not (door.warm_dir / "server").exists())
    door.cold.with_suffix(".away").rename(door.cold)
    until(lambda: b"9.9.9" in door("--version")[1] and door.server() not in (None, server))
