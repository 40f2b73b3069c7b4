"""One busybox image for all tests of the room."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.harness import make_root

from wherry.kernel import cgroup


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root tree; skips where containers cannot be made."""
    if os.getuid() != 0 or not Path("/bin/busybox").exists():
        pytest.skip("needs root and /bin/busybox (Debian: busybox-static)")
    yield make_root(tmp_path_factory.mktemp("image"))
    for directory in cgroup.find().directories("/wherry-test"):
        with contextlib.suppress(OSError):  # another run's containers are in it
            os.rmdir(directory)
