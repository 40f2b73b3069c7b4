"""Expansion: the forms of Docker's shell lexer, and its errors."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.build.variables import ExpansionError, Use, expand, expand_text, expand_words, go_quote

VALUES = {"A": "a", "E": "", "P": "/x/y/file.tar.gz", "W": "one two"}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("$A", "a"),
        ("${A}b", "ab"),
        ("$Ab", ""),
        ("\\$A", "$A"),
        ("'$A'", "$A"),
        ('"$A b"', "a b"),
        ('"\\$A \\x"', "$A \\x"),
        ("${N:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${N-d}", "d"),
        ("${A:+w}", "w"),
        ("${E:+w}", ""),
        ("${E+w}", "w"),
        ("${N:-${A}x}", "ax"),
        ("${P#*/}", "x/y/file.tar.gz"),
        ("${P##*/}", "file.tar.gz"),
        ("${P%.*}", "/x/y/file.tar"),
        ("${P%%.*}", "/x/y/file"),
        ("${P/x/z}", "/z/y/file.tar.gz"),
        ("${P//[/z}", "/x/y/file.tar.gz"),
        ("${P//\\//-}", "-x-y-file.tar.gz"),
        ("${P/f?le/F}", "/x/y/F.tar.gz"),
        ("${P/file/\\/$A\\$A}", "/x/y/\\/a\\$A.tar.gz"),
        ('${P/file/"q\\"$A"}', '/x/y/q\\"a.tar.gz'),
        ("${P/'f*e'/F}", "/x/y/F.tar.gz"),
        ("${W///-}", "-o-n-e- -t-w-o-"),
        ("$", "$"),
        ("a$.b", "a$.b"),
        ("$$x", "x"),
    ],
)
def test_forms(word: str, result: str) -> None:
    assert expand(word, VALUES) == result


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${NOPE:?must be set}", 'failed to process "${NOPE:?must be set}": NOPE: must be set'),
        ("${E:?}", 'failed to process "${E:?}": E: is not allowed to be empty'),
        ("${B?}", 'failed to process "${B?}": B: is not allowed to be unset'),
        ("${B", 'failed to process "${B": unsupported modifier (\ufffd) in substitution'),
        ("${B/x}", "failed to process \"${B/x}\": syntax error: missing '/' in ${}"),
        ("${B//x", "failed to process \"${B//x\": syntax error: missing '/' in ${}"),
        ("${B/x/y", "failed to process \"${B/x/y\": syntax error: missing '}'"),
        ("${B:-y", "failed to process \"${B:-y\": syntax error: missing '}'"),
        ("${B:}", "failed to process \"${B:}\": syntax error: missing '}'"),
        ("${}", 'failed to process "${}": syntax error: bad substitution'),
        ("${B:@x}", 'failed to process "${B:@x}": unsupported modifier (:@) in substitution'),
        ('"b', 'failed to process "\\"b": unexpected end of statement while looking for matching double-quote'),
        ("'b", 'failed to process "\'b": unexpected end of statement while looking for matching single-quote'),
    ],
)
def test_faults(word: str, message: str) -> None:
    with pytest.raises(ExpansionError) as fault:
        expand(word, {"E": ""})
    assert str(fault.value) == message


def test_words_part_at_blanks_of_variables_but_not_of_quotes() -> None:
    assert expand_words('$W "$W" a', VALUES) == ["one", "two", "one two", "a"]


def test_text_keeps_quotes() -> None:
    assert expand_text("\"$A\" '$A' \\$A \\n\n", VALUES) == "\"a\" 'a' $A \\n\n"


def test_used_and_unset_names_are_told() -> None:
    use = Use()
    expand("$A ${N} ${M:-x}", VALUES, use=use)
    assert (use.used, use.unset) == ({"A", "N", "M"}, ["N"])


def test_deep_nesting_and_wild_patterns_stay_cheap() -> None:
    with pytest.raises(ExpansionError, match="nested too deeply"):
        expand("${a:-" * 100 + "}" * 100, {})
    started = time.process_time()
    expand("${A#" + "*a" * 200 + "b}", {"A": "a" * 2000})
    assert time.process_time() - started < 2


def test_go_quoting() -> None:
    assert go_quote('a"b\\c\n\x01é') == '"a\\"b\\\\c\\n\\x01é"'


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aA${}:-+?#%/\\'\" *", max_size=40))
def test_any_word_expands_or_is_refused(word: str) -> None:
    with contextlib.suppress(ExpansionError):
        expand(word, VALUES)


def test_a_variable_that_is_doubled_again_and_again_is_refused() -> None:
    """Forty short lines of a Dockerfile would otherwise fill the memory, and before that keep everybody waiting."""
    values = {"a": "x" * 1024}
    for _ in range(10):
        values["a"] = expand("$a$a", values)
    with pytest.raises(ExpansionError, match="the result is too long"):
        expand("$a$a", values)
    with pytest.raises(ExpansionError, match="the result is too long"):
        expand("${b:-" + "$a" * 1000 + "}", values)


def test_all_words_of_an_instruction_have_a_length_in_all() -> None:
    use = Use()
    for _ in range(8):
        expand("$a", {"a": "x" * (1 << 20)}, use=use)
    with pytest.raises(ExpansionError, match="words are longer than 8388608 characters"):
        expand("$a", {"a": "x"}, use=use)


@pytest.mark.parametrize("word", ["${a#%s}", "${a%%%s}", "${a/%s/y}", "${a//%s/y}"])
def test_a_long_pattern_is_not_tried_on_a_long_value(word: str) -> None:
    began = time.monotonic()
    with pytest.raises(ExpansionError, match="too long"):
        expand(word % ("*?" * 30_000), {"a": "x" * 2000})
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("value", "words"), [(" a  b ", ["a", "b"]), ("", []), ("  ", []), ("a\tb\n", ["a", "b"]), ("ab", ["ab"])])
def test_a_value_is_parted_at_its_blanks(value: str, words: list[str]) -> None:
    assert expand_words("$v", {"v": value}) == words
    assert expand_words("x${v}y", {"v": value}) == ("x" + value + "y").split()
