from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.tree.directories import Directories

Tree = dict[str, Any]  # a directory, the text of a symlink, or 0 for a file


def directories(root: Tree) -> Directories[Tree]:
    def look(directory: Tree, name: str) -> Tree | str | None:
        found = directory.get(name)
        return None if found == 0 else found

    def make(directory: Tree, name: str, path: str, mtime_ns: int) -> Tree:
        if name in directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        made: Tree = {"": mtime_ns}
        directory[name] = made
        return made

    return Directories(root, look, make, lambda directory, name: errno.ENOTDIR if name in directory else errno.ENOENT)


def test_links_lead_where_they_would_if_the_tree_were_a_root() -> None:
    deep: Tree = {}
    root: Tree = {"a": {"b": deep, "up": "../../..", "abs": "/a/b", "rel": "./b/", "two": "rel"}, "top": "a"}
    found = directories(root)
    for path in ("a/b", "a/abs", "a/rel", "a/two", "top/b", "a/up/a/b", "top/up/top/two", "a//b/."):
        assert found.find(path) is deep
    assert found.find("") is root
    assert found.find("a/b/../../..") is root


@pytest.mark.parametrize(
    ("path", "mtime_ns", "number"),
    [
        ("gone", None, errno.ENOENT),
        ("file", None, errno.ENOTDIR),
        ("file/x", 5, errno.ENOTDIR),
        ("dangling/x", 5, errno.ENOENT),  # what a symlink names is not made
        ("tofile", 5, errno.ENOTDIR),
        ("loop", 5, errno.ELOOP),
    ],
)
def test_what_is_no_directory_is_told(path: str, mtime_ns: int | None, number: int) -> None:
    with pytest.raises(OSError) as failed:
        directories({"file": 0, "dangling": "gone", "tofile": "file", "loop": "loop"}).find(path, mtime_ns)
    assert (failed.value.errno, failed.value.filename) == (number, path)


def test_missing_directories_are_made_also_behind_a_link() -> None:
    inner: Tree = {}
    root: Tree = {"a": inner, "l": "a"}
    made = directories(root).find("l/x/y", 7)
    assert inner == {"x": {"": 7, "y": made}}


NAMES = st.sampled_from(["a", "b", "c", ".", "..", ""])
TREES: Any = st.recursive(
    st.one_of(st.just(0), st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(bool)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abc"), TREES, max_size=3), st.lists(NAMES, min_size=1, max_size=5).map("/".join))
def test_a_path_leads_to_a_directory_of_the_tree_or_fails(root: Tree, path: str) -> None:
    def all_of(tree: Tree) -> list[Tree]:
        return [tree, *(deep for one in tree.values() if isinstance(one, dict) for deep in all_of(one))]

    with contextlib.suppress(OSError):
        found = directories(root).find(path)
        assert any(found is one for one in all_of(root))
