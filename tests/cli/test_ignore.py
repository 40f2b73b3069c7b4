"""Which paths a .dockerignore leaves out: cases of Docker's own matcher."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli.ignore import Ignore, IgnoreFault, read

CASES = [
    ("*.md", "a.md", True), ("*.md", "d/a.md", False), ("**/*.md", "d/e/a.md", True), ("**/*.md", "a.md", True),
    ("node_modules", "node_modules/x/y.js", True), ("node_modules", "a/node_modules", False), ("**/node_modules", "a/node_modules/z", True),
    ("*\n!keep", "keep", False), ("*\n!keep", "other", True), ("docs\n!docs/a.md", "docs/a.md", False),
    ("docs\n!docs/a.md", "docs/b.md", True),
    ("!a\n*", "a", True), ("a?c", "abc", True), ("a?c", "a/c", False), ("[a-c].txt", "b.txt", True), ("[^a-c].txt", "b.txt", False),
    ("/abs", "abs", True), ("./rel/", "rel/x", True), ("a/../b", "b", True), ("# c\n\nx", "x", True), ("a.b", "axb", False),
    ("\\*", "*", True), ("\\*", "a", False), ("a/**", "a/b/c", True), ("a/**", "a", False),
    ("a/**/b", "a/x/y/b", True), ("a/**/b", "a/b", True),
    ("**.log", "a.log", True), ("**.log", "d/e/a.log", True), ("*/**.log", "d/e/a.log", False), ("a/**b", "a/c/b", True),
    ("**/b", "xb", False), ("**", "anything/at/all", True), ("$x+", "$x+", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "out"), CASES)
def test_path_is_left_out_as_docker_does(text: str, path: str, *, out: bool) -> None:
    assert Ignore(read(text)).leaves_out(path) is out


@pytest.mark.parametrize("text", ["[", "[a", "a\\", "[]", "[b-a]", "!", *read("!")])
def test_bad_pattern_is_refused(text: str) -> None:
    with pytest.raises(IgnoreFault):
        Ignore([text])


def test_directory_with_an_exception_below_is_entered() -> None:
    ignore = Ignore(read("docs\n!docs/a.md"))
    assert not ignore.may_skip("docs")
    assert ignore.may_skip("other")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab*?[]!/\\.-^\n", max_size=20), st.text(alphabet="ab/.", min_size=1, max_size=10))
def test_any_text_is_read_or_refused(text: str, path: str) -> None:
    try:
        ignore = Ignore(read(text))
    except IgnoreFault:
        return
    assert ignore.leaves_out(path) in (True, False)
