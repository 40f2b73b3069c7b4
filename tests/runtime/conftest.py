"""One busybox image for all tests of the room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.runtime.harness import make_root


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root tree; skips where containers cannot be made."""
    if os.getuid() != 0 or not Path("/bin/busybox").exists():
        pytest.skip("needs root and /bin/busybox (Debian: busybox-static)")
    return make_root(tmp_path_factory.mktemp("image"))
