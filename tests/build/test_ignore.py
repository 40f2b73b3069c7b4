""".dockerignore by Docker's rules, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.build.ignore import BadPattern, Matcher, match, read_patterns


@pytest.mark.parametrize(
    ("patterns", "path", "ignored"),
    [
        (["*.log"], "a.log", True),
        (["*.log"], "sub/c.log", False),
        (["**/*.log"], "a.log", True),
        (["**/*.log"], "x/y/c.log", True),
        (["node_modules"], "node_modules/x/y", True),
        (["node_modules"], "sub/node_modules", False),
        (["a/**"], "a", False),
        (["a/**"], "a/b/c", True),
        (["**"], "x", True),
        (["**/b"], "b", True),
        (["**/b"], "a/b/c", True),
        (["a/**/b"], "a/b", True),
        (["a/**/b"], "a/x/y/b", True),
        (["a/**/b"], "a/x/y", False),
        (["*", "!keep"], "keep", False),
        (["*", "!keep"], "other", True),
        (["d", "!d/k", "d/k/x"], "d/k/x", True),
        (["d", "!d/k", "d/k/x"], "d/k/y", False),
        (["/a"], "a", True),
        (["**.log"], "d/e/a.log", True),
        (["*/**.log"], "d/e/a.log", False),
        (["a/**b"], "a/c/b", True),
        (["**/b"], "xb", False),
        (["a\u2028b"], "b", False),
        (["a?c"], "abc", True),
        (["[a-c]x"], "bx", True),
        (["[^a-c]x"], "bx", False),
        (["a\\*"], "a*", True),
        (["a\\*"], "ab", False),
    ],
)
def test_rules(patterns: list[str], path: str, ignored: bool) -> None:
    assert Matcher(read_patterns("\n".join(patterns))).matches(path) is ignored


def test_reading_drops_comments_and_cleans() -> None:
    assert read_patterns("# c\n\n  a/../b/ \n!/x\n #no\n") == ["b", "!x", "#no"]
    with pytest.raises(BadPattern):
        read_patterns("!\n")


def test_what_may_be_taken_back_is_known() -> None:
    matcher = Matcher(["d", "!d/k/x"])
    assert matcher.may_hold_kept("d")
    assert matcher.may_hold_kept("d/k")
    assert not matcher.may_hold_kept("d/z")


def test_hostile_patterns_cost_little() -> None:
    matcher = Matcher(["/".join(["**"] * 100) + "/" + "*a" * 50 + "b"] * 20)
    started = time.perf_counter()
    matcher.matches("/".join(["a" * 50] * 20))
    assert time.perf_counter() - started < 1


def test_go_match_is_for_whole_components() -> None:
    assert match("*.txt", "a.txt")
    assert not match("*", "a/b")
    with pytest.raises(BadPattern):
        match("[a", "a")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab*?[]^-\\/!", min_size=1, max_size=12), st.text(alphabet="ab/", min_size=1, max_size=8))
def test_any_pattern_matches_or_is_refused(pattern: str, path: str) -> None:
    try:
        Matcher(read_patterns(pattern)).matches(path)
    except BadPattern:
        return
