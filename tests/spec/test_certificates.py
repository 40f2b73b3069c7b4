"""Which files of a directory of certificates are what."""

from __future__ import annotations

import pytest

from wherry.spec.certificates import sort_out


@pytest.mark.parametrize(
    ("names", "authorities", "pairs"),
    [
        ([], [], []),
        (["b.crt", "a.crt", "README", "ca.pem"], ["a.crt", "b.crt"], []),
        (["client.key", "client.cert", "ca.crt"], ["ca.crt"], [("client.cert", "client.key")]),
        (["b.key", "a.b.cert", "b.cert", "a.b.key"], [], [("a.b.cert", "a.b.key"), ("b.cert", "b.key")]),
    ],
)
def test_files_are_known_by_the_ends_of_their_names(names: list[str], authorities: list[str], pairs: list[tuple[str, str]]) -> None:
    assert sort_out(names) == (authorities, pairs)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.cert"], "missing key a.key for client certificate a.cert. CA certificates must use the extension .crt"),
        (["a.key", "b.cert", "b.key"], "missing client certificate a.cert for key a.key"),
    ],
)
def test_half_a_pair_is_named(names: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        sort_out(names)
    assert str(caught.value) == message
