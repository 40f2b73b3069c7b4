"""Bundles and the command that runs them, for the tests of what runtimes must do."""

from __future__ import annotations

from tests.bundle.conftest import image, runtime, warm

__all__ = ["image", "runtime", "warm"]
