"""The mark for directories of unrelated trees."""

from __future__ import annotations

import subprocess
from pathlib import Path

from wherry.kernel.spread import spread


def test_the_mark_is_set_where_the_file_system_has_it(tmp_path: Path) -> None:
    marked = spread(str(tmp_path))
    assert spread(str(tmp_path)) == marked
    if marked:
        shown = subprocess.run(["lsattr", "-d", str(tmp_path)], capture_output=True, text=True, check=False).stdout
        assert not shown or "T" in shown.split()[0]


def test_a_file_system_without_it_is_no_error() -> None:
    assert not spread("/proc")
