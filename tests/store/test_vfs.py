from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wherry.store.vfs import Vfs

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import Make, Suite


class TestVfs(Suite):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda records: Vfs(str(tmp_path), records)
