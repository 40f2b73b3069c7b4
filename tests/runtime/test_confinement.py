"""What a confined process can still do, asked by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wherry.kernel import landlock

pytestmark = pytest.mark.root
PROGRAM = """
import os, socket, sys
from wherry.runtime import confinement
confinement.program(files=True)
directory = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
control, other = socket.socketpair()
confinement.confine(confinement.Cell(directories=1), [directory], control.fileno())
for ask in (
    lambda: os.close(os.open("within", os.O_RDONLY, dir_fd=directory)),
    lambda: os.close(os.open("../outside", os.O_RDONLY, dir_fd=directory)),
    lambda: os.mkdir("../made", dir_fd=directory),
    lambda: os.unlink("../outside", dir_fd=directory),
    lambda: os.fstat(other.fileno()),
    lambda: socket.socket(),
    lambda: os.fork() or os._exit(0),
    lambda: os.chmod("/proc/self/mem", 0),
):
    try:
        ask()
        os.write(1, b"done\\n")
    except OSError as error:
        os.write(1, f"{error.strerror}\\n".encode())
os._exit(0)
"""


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_only_the_directory_that_was_handed_over_can_be_reached(tmp_path: Path) -> None:
    (inner := tmp_path / "inner").mkdir()
    (inner / "within").write_text("x")
    (outside := tmp_path / "outside").write_text("x")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(inner)], capture_output=True, text=True, timeout=60, check=True)
    denied, forbidden = "Permission denied", "Operation not permitted"
    assert done.stdout.splitlines()[:7] == ["done", denied, denied, denied, "Bad file descriptor", forbidden, forbidden]
    assert done.stdout.splitlines()[7] != "done"
    assert outside.exists()
    assert not (tmp_path / "made").exists()
