from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from wherry.tree.erofs_node import Node, walk
from wherry.tree.tar import Entry, InvalidArchive, Kind

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from indexes import names, size_of, tree_of
from snapshotter_suite import directory, file, layer


def tree(*entries: tuple[Entry, bytes] | Entry, lowest: bool = False) -> Node:
    return tree_of(layer(*entries), lowest=lowest)


def link(name: str, target: str, kind: Kind = Kind.SYMLINK) -> Entry:
    return Entry(name=name, kind=kind, link=target)


def test_symlinks_lead_to_directories_but_never_out() -> None:
    root = tree(directory("real"), link("a", "/real"), link("b", "../../../a"), file("b/file"), file("a/../b/other"))
    assert names(root) == {"real", "a", "b", "real/file", "real/other"}


def test_names_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(FileNotFoundError):
        tree(link("a", "gone"), file("a/b"))
    with pytest.raises(NotADirectoryError):
        tree(file("a"), file("a/b"))
    with pytest.raises(OSError, match="symbolic links"):
        tree(link("a", "a"), file("a/b"))
    with pytest.raises(OSError, match="too long"):
        tree(file("n" * 256))
    for entry in (link("a", "gone", Kind.HARDLINK), link("a", "", Kind.SYMLINK), file("../a"), file(".wh."), file(".wh...")):
        with pytest.raises(InvalidArchive):
            tree(entry)


def test_a_later_entry_replaces_a_former() -> None:
    root = tree(
        directory("a"),
        file("a/b"),
        file("a"),
        directory("c", mode=0o700),
        file("c/d"),
        directory("c", mode=0o711),
        file("e"),
        directory("e"),
    )
    assert names(root) == {"a", "c", "c/d", "e"}
    assert stat.S_IMODE((root.children or {})["c"].mode) == 0o711
    assert names(tree(file(".wh.a"), file("a"), directory("d"), file(".wh.d"))) == {"a", "d!"}
    assert names(tree(file(".wh.a"), directory("a"))) == {"a~"}


def test_a_file_is_no_directory_wherever_its_name_comes_from() -> None:
    for entries in ((file("a"), file("a/.wh..wh..opq")), (file("a"), file("a/.wh.b")), (file(".wh.a"), file("a/b"))):
        for lowest in (True, False):
            with pytest.raises(NotADirectoryError):
                tree(*entries, lowest=lowest)
    with pytest.raises(NotADirectoryError):
        tree(file("f"), link("a", "f"), file("a/b"))


def test_a_link_does_not_find_what_it_replaces() -> None:
    with pytest.raises(InvalidArchive):
        tree(directory("d"), file("d/a"), link("d", "d/a", Kind.HARDLINK))
    with pytest.raises(InvalidArchive):
        tree(directory("d"), file("d/a"), link("s", "d"), link("s/a", "d/a", Kind.HARDLINK))


def test_links_to_links_name_the_same_file_though_the_first_name_is_another_now() -> None:
    root = tree(
        file("a", b"1"),
        link("b", "a", Kind.HARDLINK),
        link("c", "b", Kind.HARDLINK),
        file("a", b"22"),
        file("b"),
        link("d", "c", Kind.HARDLINK),
    )
    children = root.children or {}
    assert children["c"] is children["d"]
    assert [(children[name].size, children[name].links) for name in "abc"] == [(2, 1), (0, 1), (1, 2)]


def test_in_the_lowest_layer_whiteouts_only_undo() -> None:
    root = tree(directory("d"), file("d/a"), file("d/.wh.a"), file("d/.wh.b"), file("d/.wh..wh..opq"), file("x/.wh.y"), lowest=True)
    assert names(root) == {"d", "x"}


def test_hard_links_are_one_node_counted_once() -> None:
    root = tree(file("a", b"12345"), link("b", "./a", Kind.HARDLINK), link("a", "a", Kind.HARDLINK), link("s", "123"))
    children = root.children or {}
    assert children["a"] is children["b"]
    assert size_of(root) == 5 + 3
    assert len({id(node) for node in walk(root)}) == 3
