from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.kernel import loop


@pytest.mark.root
def test_a_file_shows_as_a_read_only_device_until_it_is_closed(tmp_path: Path) -> None:
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here")
    (tmp_path / "file").write_bytes(b"abc" * 512)
    fd, device = loop.attach(str(tmp_path / "file"))
    backing = Path("/sys/block", os.path.basename(device), "loop/backing_file")
    try:
        assert os.pread(fd, 4096, 0) == b"abc" * 512
        assert backing.read_text().strip() == str(tmp_path / "file")
        with pytest.raises(PermissionError):
            Path(device).write_bytes(b"x")
    finally:
        os.close(fd)
    assert not backing.exists() or backing.read_text().strip() != str(tmp_path / "file")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        loop.attach(str(tmp_path / "nothing"))
