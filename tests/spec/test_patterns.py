"""Which paths a pattern takes: cases of Docker's own matcher, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.spec import patterns
from wherry.spec.patterns import BadPattern, Patterns, name_matcher, patterns_of

CASES = [
    ("*.md", "a.md", True), ("*.md", "d/a.md", False), ("**/*.md", "d/e/a.md", True), ("**/*.md", "a.md", True),
    ("node_modules", "node_modules/x/y.js", True), ("node_modules", "a/node_modules", False), ("**/node_modules", "a/node_modules/z", True),
    ("*\n!keep", "keep", False), ("*\n!keep", "other", True), ("docs\n!docs/a.md", "docs/a.md", False),
    ("docs\n!docs/a.md", "docs/b.md", True), ("d\n!d/k\nd/k/x", "d/k/x", True), ("d\n!d/k\nd/k/x", "d/k/y", False),
    ("!a\n*", "a", True), ("a?c", "abc", True), ("a?c", "a/c", False), ("[a-c].txt", "b.txt", True), ("[^a-c].txt", "b.txt", False),
    ("/abs", "abs", True), ("./rel/", "rel/x", True), ("a/../b", "b", True), ("# c\n\nx", "x", True), ("a.b", "axb", False),
    ("\\*", "*", True), ("\\*", "a", False), ("a\\*", "a*", True), ("a\\*", "ab", False), ("a/**", "a/b/c", True), ("a/**", "a", False),
    ("a/**/b", "a/x/y/b", True), ("a/**/b", "a/b", True), ("a/**/b", "a/x/y", False), ("a\u2028b", "b", False),
    ("**.log", "a.log", True), ("**.log", "d/e/a.log", True), ("*/**.log", "d/e/a.log", False), ("a/**b", "a/c/b", True),
    ("**/b", "xb", False), ("**", "anything/at/all", True), ("$x+", "$x+", True), ("x^y", "x^y", True),
    ("su**s.txt", "sus.txt", True), ("su**s.txt", "su/s.txt", True), ("su**s.txt", "suit/s.txt", True), ("su**s.txt", "suits.txt", False),
    ("a*b*c*d", "a1b2c3d", True), ("a*b*c*d", "a1b/c3d", False), ("**/x/**/*y", "q/x/r/s/zy", True), ("**/x/**/*y", "q/w/zy", False),
    ("*a**b*c", "aab/1c", False), ("*a**b*c", "1a/q/b2c", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "taken"), CASES)
def test_a_path_is_left_out_as_docker_does(text: str, path: str, *, taken: bool) -> None:
    assert Patterns(patterns_of(text)).matches(path) is taken


def test_lines_are_cleaned() -> None:
    assert patterns_of("\ufeff# c\n\n  a/../b/ \n! /x\n #no\n//y\n..\n/\n!\n") == ["b", "!x", "#no", "y", "..", "/", "!"]


@pytest.mark.parametrize("text", ["[", "[a", "a\\", "[]", "[]a]", "[a-]", "[-a]", "[b-a]", "[\\", "!", *patterns_of("!")])
def test_a_bad_pattern_is_refused(text: str) -> None:
    with pytest.raises(BadPattern):
        Patterns([text])


@pytest.mark.parametrize(
    ("lines", "directory", "held"),
    [
        ("docs\n!docs/a.md", "docs", True),
        ("docs\n!docs/a.md", "other", False),
        ("d\n!d/k/x", "d/k", True),
        ("d\n!d/k/x", "d/z", False),
        ("d\n!**/keep", "d/z", True),
        ("d\n!d/*/keep", "d/z", True),
        ("d\n!e/*/keep", "d/z", False),
        ("d", "d", False),
    ],
)
def test_what_may_be_taken_back_is_known(lines: str, directory: str, *, held: bool) -> None:
    assert Patterns(patterns_of(lines)).may_hold_kept(directory) is held


@pytest.mark.parametrize("pattern", ["/".join(["**"] * 100) + "/" + "*a" * 50 + "b", "**a" * 100, "*?" * 200 + "b", "**/*a/" * 60])
def test_hostile_patterns_cost_little(pattern: str) -> None:
    matcher = Patterns([pattern] * 20)
    started = time.process_time()
    matcher.matches("/".join(["a" * 50] * 20))
    assert time.process_time() - started < 1


def test_names_are_matched_as_go_does() -> None:
    assert name_matcher("*.txt")("a.txt")
    assert name_matcher("a**b*c*d")("a1b2c3d")
    assert not name_matcher("*")("a/b")
    with pytest.raises(BadPattern):
        name_matcher("[a")


@settings(max_examples=300)
@given(st.text(alphabet="ab*?[]!/\\.-^\n", max_size=20), st.text(alphabet="ab/", min_size=1, max_size=10))
def test_any_text_is_read_or_refused(text: str, path: str) -> None:
    try:
        matcher = Patterns(patterns_of(text))
    except BadPattern:
        return
    assert matcher.matches(path) in (True, False)


@settings(max_examples=500)
@given(st.text(alphabet="ab*?/", min_size=1, max_size=8), st.text(alphabet="ab/", min_size=1, max_size=8))
def test_both_ways_of_matching_agree(pattern: str, path: str) -> None:
    tokens = patterns._tokens(pattern, deep=True)
    assert patterns._Simulation(tokens).matches(path) is (patterns.re.fullmatch("".join(tokens), path, patterns.re.DOTALL) is not None)
