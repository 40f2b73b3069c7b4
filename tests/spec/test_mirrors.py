"""Addresses of mirrors, as the daemon is given them."""

from __future__ import annotations

import pytest

from wherry.spec.mirrors import Mirror, parse_mirror


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://m.example", Mirror(of="docker.io", host="m.example")),
        ("https://m.example/", Mirror(of="docker.io", host="m.example")),
        ("http://10.0.0.1:5000", Mirror(of="docker.io", host="10.0.0.1:5000", is_plain=True)),
        ("ghcr.io=https://m.example:81", Mirror(of="ghcr.io", host="m.example:81")),
    ],
)
def test_a_mirror_is_of_docker_hub_or_of_a_named_registry(text: str, expected: Mirror) -> None:
    assert parse_mirror(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m.example", 'invalid mirror: unsupported scheme "" in "m.example"'),
        ("ftp://m.example", 'invalid mirror: unsupported scheme "ftp"'),
        ("https://u:secret@m.example", "invalid mirror: username/password not allowed"),
        ("https://m.example/v1/", "invalid mirror: path, query, or fragment at end of the URI"),
        ("https://m.example?x", "invalid mirror: path, query, or fragment at end of the URI"),
        ("https://m.example:x", "is not a valid URI"),
    ],
)
def test_what_is_no_mirror_is_refused_without_its_password(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="invalid mirror") as caught:
        parse_mirror(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
