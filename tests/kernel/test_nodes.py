from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.kernel import nodes


def test_the_mode_of_a_fifo_is_set_without_opening_it_and_that_of_a_symlinks_target_never(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "file").touch(0o600)
    (tmp_path / "link").symlink_to("file")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        nodes.chmod_node(fd, "fifo", 0o666)
        with pytest.raises(OSError, match=r"fchmodat2|/proc/self/fd/"):  # the second before Linux 6.6
            nodes.chmod_node(fd, "link", 0o666)
        nodes.syncfs(fd)
    finally:
        os.close(fd)
    assert os.stat(tmp_path / "fifo").st_mode & 0o777 == 0o666
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o600
