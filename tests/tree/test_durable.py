from __future__ import annotations

import os
from pathlib import Path

from wherry.tree.durable import sync_small_tree


def test_a_small_tree_is_synced_and_a_large_one_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/f").write_bytes(b"x")
    (tmp_path / "d/link").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path, os.O_RDONLY)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert sync_small_tree(fd, 4)
    assert not sync_small_tree(fd, 3)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    os.close(fd)
