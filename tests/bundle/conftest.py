"""A runtime for each test, which must leave nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bundle.harness import Runtime, leftovers
from tests.bundle.warm import Warm
from tests.runtime.conftest import image

__all__ = ["image", "runtime"]


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    made = Warm()
    yield made
    made.close()


@pytest.fixture
def runtime(image: Path, tmp_path: Path, warm: Warm) -> Iterator[Runtime]:
    image.chmod(0o755)  # for users of its own
    made = Runtime(tmp_path, image, warm)
    yield made
    for one in (tmp_path / "state").glob("*"):
        made("delete", "--force", one.name, check=False)
    assert leftovers(tmp_path) == []
