"""Whose directory a server may use."""

from __future__ import annotations

import os
from pathlib import Path

from wherry.warm import leaving


def test_a_directory_has_one_server_and_belongs_to_its_user_alone(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    lock = leaving.take(str(place))
    assert lock is not None
    assert place.stat().st_mode & 0o777 == 0o700
    assert leaving.take(str(place)) is None
    os.close(lock)
    for mode in (0o750, 0o701):
        place.chmod(mode)
        assert leaving.take(str(place)) is None
    place.chmod(0o700)
    again = leaving.take(str(place))
    assert again is not None
    os.close(again)
