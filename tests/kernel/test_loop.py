"""Loop devices over real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.kernel import loop


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/loop-control"), reason="needs root and loop devices")
def test_a_file_is_shown_as_a_block_device(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content".ljust(4096, b"\0"))
    try:
        fd, device = loop.attach(str(file))
    except PermissionError:
        pytest.skip("loop devices may not be opened here")
    try:
        assert os.pread(fd, 7, 0) == b"content"
        assert device.startswith("/dev/loop")
    finally:
        os.close(fd)
