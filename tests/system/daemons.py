"""Daemons in trouble: one that dies when told to, one whose disk is small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Daemon, make_daemon, remove_tree, running
from tests.disks import in_memory


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
    try:
        with in_memory(daemon.root / "data", size_mib=size_mib), running(daemon, image=image):
            yield daemon
    finally:
        remove_tree(daemon.root)
