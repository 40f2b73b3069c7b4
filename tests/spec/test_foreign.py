"""JSON from strangers."""

from __future__ import annotations

import re

import pytest

from wherry.spec import foreign


def test_what_an_honest_document_holds_is_read() -> None:
    assert foreign.loads(b'{"a":[1,"\xc3\xa9",{}]}') == {"a": [1, "\u00e9", {}]}
    assert foreign.loads(b'{"a":1,"a":2}', tuple) == (("a", 1), ("a", 2))


@pytest.mark.parametrize("raw", [b"[" + b"[]," * 100_000 + b"[]]", b"[" * 100_000, b"[" * 90_000 + b"]" * 90_000, b"{", b"\xff", b""])
def test_what_would_take_much_memory_or_is_none_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"too many values|recursion|unexpected end of JSON input|codec"):
        foreign.loads(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ('["a', "unexpected end of JSON input"),
        ("[1", "unexpected end of JSON input"),
        ("junk", "invalid character 'j' looking for beginning of value"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ("{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a]": [1] "b":2}', "invalid character '\"' after object key:value pair"),
        ('{"a{\\"": [1 2]}', "invalid character '2' after array element"),
        ("[] x", "invalid character 'x' after top-level value"),
        ('["a\nb"]', r"invalid character '\n' in string"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_go(raw: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        foreign.loads(raw.encode())
