from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wherry.tree.erofs_image import decode
from wherry.tree.erofs_node import Node
from wherry.tree.tar import Entry, Kind

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from indexes import index_of, merged, names
from snapshotter_suite import directory, file, layer

BELOW = layer(directory("d"), file("d/a"), file("f"), file("g"), directory("o"), file("o/x"))
ABOVE = layer(
    file("d/.wh.a"), directory("f"), file("f/in"), file(".wh.g"), directory("o"), file("o/.wh..wh..opq"), file("o/y"), file(".wh.z")
)


def stack(*tars: bytes, lowest: bool) -> Node:
    indexes = [index_of(tar, lowest=lowest and not number) for number, tar in enumerate(tars)]
    return decode(merged(indexes, [[(len(tar), "tar")] for tar in tars], lowest=lowest))


@pytest.mark.parametrize(
    ("lowest", "shown"),
    [(True, {"d", "f", "f/in", "o", "o/y"}), (False, {"d", "d/a!", "f~", "f/in", "g!", "o~", "o/y", "z!"})],
)
def test_layers_over_each_other_keep_marks_only_for_what_lies_below(lowest: bool, shown: set[str]) -> None:
    assert names(stack(BELOW, ABOVE, lowest=lowest)) == shown


def test_files_keep_their_names_and_the_places_of_their_bytes() -> None:
    link = Entry(name="d/hard", kind=Kind.HARDLINK, link="one")
    root = stack(layer(file("one", b"1" * 600), directory("d"), link), layer(file("two", b"22"), file(".wh.three")), lowest=True)
    children = root.children or {}
    inner = children["d"].children or {}
    assert children["one"] is inner["hard"]
    assert [(children[name].device, children[name].size, children[name].links) for name in ("one", "two")] == [(0, 600, 2), (1, 2, 1)]


def test_the_highest_directory_tells_how_it_looks() -> None:
    root = stack(layer(directory("d", mode=0o700, uid=5)), layer(directory("d", mode=0o711, uid=6)), layer(file("d/a")), lowest=True)
    found = (root.children or {})["d"]
    assert (oct(found.mode & 0o7777), found.uid) == ("0o755", 0)  # the third layer has it too: made for what is in it
