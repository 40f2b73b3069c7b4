"""Daemons in trouble: one that dies when told to, one whose disk is small."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Daemon, make_daemon, running


@contextmanager
def mortal(*, image: bool = True) -> Iterator[Daemon]:
    """One that dies at the stage whose number stands in the file ``kill`` of its root (`mortal_daemon`)."""
    daemon = make_daemon()
    daemon.program = (str(Path(__file__).with_name("mortal_daemon.py")),)
    daemon.daemon_environment = {"WHERRY_TEST_KILL": str(daemon.root / "kill")}
    with running(daemon, image=image):
        try:
            yield daemon
        finally:
            (daemon.root / "kill").unlink(missing_ok=True)


@contextmanager
def cramped(size_mib: int, *, image: bool = True) -> Iterator[Daemon]:
    """One whose data root is a file system of its own of this size."""
    daemon = make_daemon()
    data = daemon.root / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(data)], check=True)
    try:
        with running(daemon, image=image):
            yield daemon
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)
        shutil.rmtree(daemon.root)
