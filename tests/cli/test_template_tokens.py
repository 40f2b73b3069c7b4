"""Tokens: kinds, places, what literals mean, and faults that come last."""

from __future__ import annotations

import pytest

from wherry.cli.template_tokens import SyntaxFault, number_of, string_of, tokenize


def test_an_action_is_cut_into_tokens_that_know_their_place() -> None:
    found = [(token.kind, token.text, token.pos) for token in tokenize('a  {{- $x := .Id | f -3 "q" -}}  b')]
    assert [one for one in found if one[0] != "space"] == [
        ("text", "a", 0), ("left", "{{", 3), ("variable", "$x", 7), (":=", ":=", 10), ("field", ".Id", 13), ("|", "|", 17),
        ("identifier", "f", 19), ("number", "-3", 21), ("string", '"q"', 24), ("right", "-}}", 28), ("text", "b", 33), ("eof", "", 34),
    ]  # fmt: skip


def test_what_comes_before_a_fault_is_there() -> None:
    assert [(token.kind, token.text) for token in tokenize('x{{"y}}')] == [
        ("text", "x"),
        ("left", "{{"),
        ("fault", "template: :1: unterminated quoted string"),
    ]


@pytest.mark.parametrize(
    ("source", "value"), [("0x10", 16), ("010", 8), ("1_000", 1000), ("1.5e3", 1500.0), ("0x1p4", 16.0), ("'\\n'", 10)]
)
def test_numbers_are_written_in_many_ways(source: str, value: float) -> None:
    text = "{{" + source + "}}"
    assert number_of(text, tokenize(text)[1]) == value


@pytest.mark.parametrize(("source", "value"), [(r'"\t\x41\u00e9\101"', "\tA\u00e9A"), (r"`\t`", r"\t")])
def test_strings_are_written_in_two_ways(source: str, value: str) -> None:
    text = "{{" + source + "}}"
    assert string_of(text, tokenize(text)[1]) == value


def test_an_escape_of_nothing_is_told_with_its_line() -> None:
    text = '\n{{"\\q"}}'
    with pytest.raises(SyntaxFault, match="template: :2: invalid syntax in string"):
        string_of(text, tokenize(text)[2])
