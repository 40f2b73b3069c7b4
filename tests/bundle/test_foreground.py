"""A terminal of one's own, and the container's behind it."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest
from tests.bundle.harness import COMMAND, Runtime, bundle_config

from wherry.kernel import terminal

pytestmark = pytest.mark.root


def talk(runtime: Runtime, words: list[str], *, say: bytes, after: bytes) -> tuple[bytes, int]:
    """Run a command on a terminal of 31 x 97, say something once ``after`` was read; what it wrote, and its exit code."""
    master, slave = pty.openpty()
    terminal.set_size(master, height=31, width=97)
    command = [*COMMAND, "--root", str(runtime.place / "state"), *words]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        data = b""
        while True:
            try:
                data += os.read(master, 1024)
            except OSError:  # everybody has closed it
                break
            if say and after in data:
                os.write(master, say)
                say = b""
    os.close(master)
    return data, process.returncode


def test_run_relays_a_terminal_its_size_and_its_keys(runtime):
    script = "stty size; tty; trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    configuration = bundle_config("sh", "-c", script, terminal=True)
    data, code = talk(runtime, ["run", "--bundle", str(runtime.bundle(configuration)), "t-tty"], say=b"\x03", after=b"ready")
    assert data.split()[:4] == [b"31", b"97", b"/dev/pts/0", b"ready"]
    assert (data.endswith(b"interrupted\r\n"), code) == (True, 6), data


def test_exec_relays_a_terminal(runtime):
    ident = runtime.create(bundle_config("sleep", "600"))
    runtime("start", ident)
    script = "stty size; echo ask; read x; echo got $x; exit 4"
    data, code = talk(runtime, ["exec", "--tty", ident, "sh", "-c", script], say=b"word\n", after=b"ask")
    assert (data.startswith(b"31 97\r\n"), b"got word" in data, code) == (True, True, 4), data
