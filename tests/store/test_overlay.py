from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wherry.store.overlay import Overlay

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import Make, Suite


class TestOverlay(Suite):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda records: Overlay(str(tmp_path), records)
