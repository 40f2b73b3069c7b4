"""A layer that is a directory, looked into by path."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from wherry.store.contents import DirectoryContents, Selection

pytestmark = pytest.mark.root


def test_names_come_in_the_order_of_their_bytes_and_marks_are_seen(tmp_path: Path) -> None:
    for name in ("b", "a-b", "\u00fc", "a"):
        (tmp_path / name).mkdir()
    os.setxattr(tmp_path / "b", "trusted.overlay.opaque", b"y")
    os.mknod(tmp_path / "gone", stat.S_IFCHR, 0)
    with DirectoryContents(str(tmp_path)) as contents:
        found = list(contents.children(contents.root()))
        assert [name for name, _ in found] == [b"a", b"a-b", b"b", b"gone", "\u00fc".encode()]
        assert [item.is_opaque for _, item in found] == [False, False, True, False, False]
        assert [item.is_whiteout for _, item in found] == [False, False, False, True, False]


def test_a_symlink_is_neither_followed_nor_read_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "layer" / "d").mkdir(parents=True)
    with DirectoryContents(f"{tmp_path}/layer") as contents:
        [(_, directory)] = contents.children(contents.root())
        (tmp_path / "layer" / "d").rmdir()
        (tmp_path / "layer" / "d").symlink_to("..")
        with pytest.raises(OSError, match="openat2"):
            list(contents.children(directory))
        [(_, link)] = contents.children(contents.root())
        assert link.link == ".."


def test_of_a_whole_tree_only_the_selection_is_shown(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "own").write_bytes(b"123")
    (tmp_path / "d" / "below").write_bytes(b"")
    selection = Selection(present=frozenset({b"d", b"d/own"}), gone={b"d": [b"gone"]})
    with DirectoryContents(str(tmp_path), selection) as contents:
        [(_, directory)] = contents.children(contents.root())
        found = dict(contents.children(directory))
        assert list(found) == [b"gone", b"own"]
        assert found[b"gone"].is_whiteout
        assert b"".join(contents.data(found[b"own"])) == b"123"
