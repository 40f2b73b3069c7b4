"""A service in a container says that it is ready, and systemd, played by a socket of the test, hears it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bundle.harness import COMMAND, Runtime, bundle_config, leftovers

pytestmark = pytest.mark.root
SAY = (
    "import os, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.connect(os.environ['NOTIFY_SOCKET'])\n"
    "for line in sys.argv[1:]: s.send(line.encode())\n"
    "sys.stdin.read()\n"
)


def service(*said: str, **process: Any) -> dict[str, Any]:
    """A container that says this, with the machine's Python."""
    configuration = bundle_config(os.path.realpath(sys.executable), "-c", SAY, *said, **process)
    configuration["mounts"] += [
        {"destination": path, "type": "bind", "source": os.path.realpath(path), "options": ["rbind", "ro"]}
        for path in {"/usr", "/lib", "/lib64", sys.base_prefix}
        if os.path.isdir(path)
    ]
    return configuration


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"{tmp_path}/host.sock")
        listener.settimeout(30)
        yield listener


def begin(runtime: Runtime, systemd: socket.socket, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "NOTIFY_SOCKET": systemd.getsockname()}
    return subprocess.Popen(
        [*COMMAND, "--root", str(runtime.place / "state"), *words], env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("user", [{"uid": 0, "gid": 0}, {"uid": 1000, "gid": 1000}])
def test_run_tells_what_the_program_says_of_its_state_and_nothing_else(runtime, systemd, user):
    said = ("STATUS=loading\nFDSTORE=1", "MAINPID=1", "READY=1\nMAINPID=1\nWATCHDOG_USEC=1", "STOPPING=1")
    bundle = runtime.bundle(service(*said, user=user))
    with begin(runtime, systemd, "run", "--bundle", str(bundle), f"t-{secrets.token_hex(4)}") as command:
        assert systemd.recv(4096) == b"STATUS=loading"
        assert systemd.recv(4096) == b"READY=1\nMAINPID=%d" % command.pid
        assert systemd.recv(4096) == b"STOPPING=1"
        assert command.stdin is not None
        command.stdin.close()
        assert command.wait(30) == 0
    assert leftovers(runtime.place) == []


@pytest.mark.parametrize("words", [("run", "--detach"), ("start",)])
def test_who_does_not_stay_waits_until_the_program_is_ready_and_names_it(runtime, systemd, words):
    bundle = runtime.bundle(service("STATUS=loading", "READY=1"))
    ident = f"t-{secrets.token_hex(4)}"
    if words == ("start",):
        with begin(runtime, systemd, "create", "--bundle", str(bundle), ident) as command:
            held = command.stdin  # the program's
            assert command.wait(30) == 0
            with begin(runtime, systemd, *words, ident) as second:
                assert second.wait(30) == 0
            pid = runtime.state(ident)["pid"]
            assert [systemd.recv(4096), systemd.recv(4096)] == [b"STATUS=loading", b"READY=1\nMAINPID=%d" % pid]
            assert held is not None
            held.close()
    else:
        with begin(runtime, systemd, *words, "--bundle", str(bundle), ident) as command:
            assert command.wait(30) == 0
            pid = runtime.state(ident)["pid"]
            assert [systemd.recv(4096), systemd.recv(4096)] == [b"STATUS=loading", b"READY=1\nMAINPID=%d" % pid]
    runtime("delete", "--force", ident)
    assert leftovers(runtime.place) == []


def test_a_program_that_ends_without_a_word_keeps_nobody(runtime, systemd):
    bundle = runtime.bundle(bundle_config("true"))
    ident = f"t-{secrets.token_hex(4)}"
    with begin(runtime, systemd, "run", "--detach", "--bundle", str(bundle), ident) as command:
        assert command.wait(30) == 0
    runtime("delete", ident)
    assert leftovers(runtime.place) == []


def test_a_host_socket_that_is_not_there_is_named_and_nothing_left(runtime, tmp_path):
    bundle = runtime.bundle(bundle_config("true"))
    done = subprocess.run(
        [*COMMAND, "--root", str(runtime.place / "state"), "run", "--bundle", str(bundle), f"t-{secrets.token_hex(4)}"],
        env={**os.environ, "NOTIFY_SOCKET": f"{tmp_path}/nobody"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, f"NOTIFY_SOCKET {tmp_path}/nobody: No such file" in done.stderr) == (1, True), done.stderr
    assert leftovers(runtime.place) == []
