from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.store.erofs import Erofs, erofs_works
from wherry.store.records import Records

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import Make, Suite


def mounts_below(path: Path) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file if line.split()[4].startswith(f"{path}/")]


class TestErofs(Suite):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        if not erofs_works(str(tmp_path)):
            pytest.skip("this kernel cannot mount EROFS")
        made: list[Erofs] = []

        def make(records: Records) -> Erofs:
            made.append(Erofs(str(tmp_path), records, str(tmp_path / "mounts")))
            return made[-1]

        yield make
        for one in made:
            one.close()
        assert mounts_below(tmp_path) == []
