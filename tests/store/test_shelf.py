from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.store.records import Records
from wherry.store.shelf import Shelf


def test_a_directory_that_cannot_be_made_whole_leaves_nothing(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "state.db"))
    shelf = Shelf(str(tmp_path), records)
    with pytest.raises(OSError, match="File name too long"), shelf.making("d", "x" * 300):
        pass
    assert os.listdir(shelf.root_dir) == []
    records.close()
