from __future__ import annotations

import os
from pathlib import Path

from wherry.tree.measure import tree_bytes


def test_files_count_once_and_symlinks_by_their_text(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"12345")
    os.link(tmp_path / "d/f", tmp_path / "hard")
    (tmp_path / "link").symlink_to("abc")
    fd = os.open(tmp_path, os.O_RDONLY)
    assert tree_bytes(fd) == 8
    os.close(fd)
