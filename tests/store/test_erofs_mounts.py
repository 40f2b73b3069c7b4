from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.store.erofs import erofs_works
from wherry.store.erofs_mounts import Mounts
from wherry.tree.erofs_format import Device
from wherry.tree.erofs_image import encode
from wherry.tree.erofs_node import new_directory

pytestmark = pytest.mark.root


def test_what_a_former_daemon_left_is_unmounted_even_twice_mounted(tmp_path: Path) -> None:
    if not erofs_works(str(tmp_path)):
        pytest.skip("this kernel cannot mount EROFS")
    (tmp_path / "tar").write_bytes(bytes(512))
    (tmp_path / "index").write_bytes(encode(new_directory(0o711), [Device(512, "tar")]))
    for _ in range(2):
        place = Mounts(str(tmp_path / "mounts"), set).path("one", lambda: (str(tmp_path / "index"), [str(tmp_path / "tar")]))
    assert os.stat(place).st_mode & 0o777 == 0o711
    Mounts(str(tmp_path / "mounts"), set).clear()
    assert os.listdir(tmp_path / "mounts") == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_failed_mount_leaves_no_mount_and_is_tried_again(tmp_path: Path) -> None:
    mounts = Mounts(str(tmp_path / "mounts"), set)
    for _ in range(2):
        with pytest.raises(OSError, match="erofs"):
            mounts.path("one", lambda: (str(tmp_path / "missing"), []))
    mounts.release("one")
    mounts.clear()
    assert os.listdir(tmp_path / "mounts") == []
