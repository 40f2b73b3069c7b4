from __future__ import annotations

import os
from pathlib import Path

from wherry.kernel import writeback


def test_it_is_a_hint_that_never_fails(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, b"x" * 9000)
        writeback.start(fd, 0, 9000)
        assert os.pread(fd, 3, 8999) == b"x"
    finally:
        os.close(fd)
    reading, writing = os.pipe()
    writeback.start(writing, 0, 1)
    os.close(reading)
    os.close(writing)
