"""JSON from strangers."""

from __future__ import annotations

import pytest

from wherry.spec import foreign


def test_what_an_honest_document_holds_is_read() -> None:
    assert foreign.loads(b'{"a":[1,"\xc3\xa9",{}]}') == {"a": [1, "\u00e9", {}]}
    assert foreign.loads(b'{"a":1,"a":2}', tuple) == (("a", 1), ("a", 2))


@pytest.mark.parametrize("raw", [b"[" + b"[]," * 100_000 + b"[]]", b"[" * 100_000, b"[" * 90_000 + b"]" * 90_000, b"{", b"\xff", b""])
def test_what_would_take_much_memory_or_is_none_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"too many values|recursion|Expecting|codec"):
        foreign.loads(raw)
