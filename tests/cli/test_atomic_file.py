"""A file that the user named, in a directory to which others may write too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.cli.atomic_file import writing


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    with writing(str(target), "save") as descriptor:
        os.write(descriptor, b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    with pytest.raises(OSError), writing(str(target), "save"):
        os.write(-1, b"half")
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["image.tar"]


def test_no_link_that_another_has_put_beside_it_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("of root")
    for pid in (os.getpid(), ""):
        (tmp_path / "theirs" / f".tmp-image.tar{pid}").symlink_to(secret)
    with writing(str(tmp_path / "theirs" / "image.tar"), "save") as descriptor:
        os.write(descriptor, b"image")
    assert secret.read_text() == "of root"
    (tmp_path / "theirs" / "link.tar").symlink_to(secret)
    with writing(str(tmp_path / "theirs" / "link.tar"), "save") as descriptor:
        os.write(descriptor, b"image")
    assert secret.read_text() == "of root"
