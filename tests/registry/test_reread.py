"""A file that is edited while it is in use."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from wherry.registry.reread import Reread


def test_a_change_is_seen_and_what_can_not_be_used_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    number = Reread(str(path), int)
    assert number.value() == 1
    with caplog.at_level(logging.ERROR):
        for broken in (b"two", b"\xff\xfe\xfd\xfc"):
            path.write_bytes(broken)
            assert [number.value(), number.value()] == [1, 1]
        path.unlink()
        assert number.value() == 1
    assert len(caplog.records) == 3  # of a broken file once, however often it is asked for
    path.write_text("20")
    assert number.value() == 20
    (tmp_path / "new").write_text("30")
    (tmp_path / "new").rename(path)
    assert number.value() == 30


def test_a_file_that_is_broken_at_first_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "number"
    with pytest.raises(FileNotFoundError):
        Reread(str(path), int)
    path.write_text("x")
    with pytest.raises(ValueError, match="invalid literal"):
        Reread(str(path), int)
