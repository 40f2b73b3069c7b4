"""A real daemon of the tests' own: its own data root, socket, bridge names and subnets, one for each test process."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("shared machine")
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # ignored when the tests are started by nohup(1) or with `&`
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # daemons are started by the hundred: each would compile everything anew

WHERRY = str(Path(sys.executable).parent / "wherry")
BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "sh echo true false sleep cat ls ps id wget nc httpd ip mount sync dd mkdir touch rm seq head yes tail find cp mv ln chmod chown "
    "sha256sum wc test env hostname stat stty nslookup kill grep sed readlink umount mknod ping printf sort tty"
).split()


@dataclass(kw_only=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(kw_only=True)
class Daemon:
    """A daemon process; ``restart`` after ``kill`` is part of what is tested."""

    root: Path
    subnet: str
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "wherry.daemon")
    daemon_environment: dict[str, str] = field(default_factory=dict)

    @property
    def socket_path(self) -> str:
        return f"{self.root}/run/wherry.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def log(self) -> str:
        return (self.root / "daemon.log").read_text()

    def start(self) -> None:
        arguments = [
            "--data-root",
            f"{self.root}/data",
            "--run-root",
            f"{self.root}/run",
            "--default-address-pool",
            self.subnet,
            "--ephemeral",
        ]
        with (self.root / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, *arguments, *self.options],
                stdout=log,
                stderr=log,
                env={**os.environ, "WHERRY_TEST_ROOT": str(self.root), **self.daemon_environment},  # children are known by it
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(self.socket_path) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"the daemon did not start:\n{self.log}")

    def kill(self) -> None:
        """kill -9, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def run(self, *arguments: str, stdin: bytes | None = None, check: bool = True, timeout: float = 60) -> Result:
        """`wherry ARGUMENTS`; with ``check`` a non-zero code fails the test and shows what was printed."""
        environment = {**os.environ, "WHERRY_HOST": self.host, "DOCKER_CONFIG": f"{self.root}/config", **self.environment}
        done = subprocess.run([WHERRY, *arguments], input=stdin, env=environment, capture_output=True, timeout=timeout, check=False)
        result = Result(code=done.returncode, out=done.stdout.decode(errors="replace"), err=done.stderr.decode(errors="replace"))
        if check and result.code:
            raise AssertionError(f"wherry {' '.join(arguments)}: exit {result.code}\n{result.out}{result.err}")
        return result

    def pipe(self, *arguments: str, stdout: IO[bytes]) -> None:
        """`run` whose output goes to a file as it comes."""
        environment = {**os.environ, "WHERRY_HOST": self.host, "DOCKER_CONFIG": f"{self.root}/config", **self.environment}
        subprocess.run([WHERRY, *arguments], stdin=subprocess.DEVNULL, stdout=stdout, env=environment, timeout=60, check=True)

    def out(self, *arguments: str, stdin: bytes | None = None) -> str:
        return self.run(*arguments, stdin=stdin).out.strip()


def busybox_tar() -> bytes:
    """A root file system of busybox with a few users."""
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nal:x:1000:1000:al:/home/al:/bin/sh\n",
        "etc/group": "root:x:0:\nal:x:1000:\nextra:x:2000:al\n",
    }
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("home", 0o755)):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o644
            tar.addfile(info, BytesIO(text.encode()))
        data = BUSYBOX.read_bytes()
        info = tarfile.TarInfo("bin/busybox")
        info.size, info.mode = len(data), 0o755
        tar.addfile(info, BytesIO(data))
        for applet in APPLETS:
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    return buffer.getvalue()


def make_daemon(*options: str) -> Daemon:
    _needs_root()
    root = Path(tempfile.mkdtemp(prefix="wherry-test-"))
    (root / "config").mkdir()
    number = os.getpid() % 200
    return Daemon(root=root, subnet=f"base=10.{number}.0.0/16,size=24", options=options)


def dispose(daemon: Daemon) -> None:
    """Stop it and take everything of it out of the machine."""
    try:
        if daemon.process is None or daemon.process.poll() is not None:
            daemon.start()  # only a running daemon can clean up
        daemon.stop()
    finally:
        remove_tree(daemon.root)


def remove_tree(path: Path) -> None:
    """However deep it is: `shutil.rmtree` goes as deep as Python can call.  What is mounted there stays."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], stderr=subprocess.DEVNULL, check=False, timeout=60)


@contextlib.contextmanager
def running(daemon: Daemon, *, image: bool = True) -> Iterator[Daemon]:
    """The daemon at work, with the image ``bb`` unless it shall have none; nothing of it is left afterwards."""
    try:
        daemon.start()
        if image:
            daemon.run("import", "-", "bb", stdin=busybox_tar())
        yield daemon
    finally:
        dispose(daemon)


def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: containers are made for real")
    if not BUSYBOX.exists():
        pytest.skip("needs /bin/busybox (Debian: busybox-static)")


@pytest.fixture(scope="session", autouse=True)
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A place for the server of this process's commands (docs/decisions/warm-command.md), and its end."""
    place = tmp_path_factory.mktemp("commands")
    os.environ["WHERRY_COMMAND_SERVER"] = str(place)
    yield
    os.environ["WHERRY_COMMAND_SERVER"] = ""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((place / "server").read_text().split()[0]), signal.SIGTERM)


@pytest.fixture(scope="session")
def engine() -> Iterator[Daemon]:
    """A running daemon with the image ``bb``, shared by the tests of one process: give what you make a name of its own."""
    with running(make_daemon()) as daemon:
        yield daemon


@pytest.fixture
def own_engine() -> Iterator[Daemon]:
    """A daemon for one test alone: it may be killed."""
    with running(make_daemon()) as daemon:
        yield daemon


@pytest.fixture
def abyss() -> Iterator[Path]:
    """A directory for what is deeper than pytest can clean away, now or after a run that was killed."""
    path = Path(tempfile.mkdtemp(prefix="wherry-deep-"))
    yield path
    remove_tree(path)
    assert not path.exists()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The host and port of a web server that shows ``tmp_path``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
