"""Addresses of mirrors, as the daemon is given them."""

from __future__ import annotations

import pytest

from wherry.spec.mirrors import Mirror, TokenServer, parse_insecure, parse_mirror, parse_token_server


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://m.example", Mirror(of="docker.io", url="https://m.example")),
        ("https://m.example/", Mirror(of="docker.io", url="https://m.example")),
        ("https://m.example/repository/docker/", Mirror(of="docker.io", url="https://m.example/repository/docker")),
        ("http://10.0.0.1:5000", Mirror(of="docker.io", url="http://10.0.0.1:5000")),
        ("ghcr.io=https://m.example:81", Mirror(of="ghcr.io", url="https://m.example:81")),
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
        ("https://m.example/v1/#x", "invalid mirror: query or fragment at end of the URI"),
        ("https://m.example?x", "invalid mirror: query or fragment at end of the URI"),
        ("https://m.example:x", "is not a valid URI"),
    ],
)
def test_what_is_no_mirror_is_refused_without_its_password(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="invalid mirror") as caught:
        parse_mirror(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reg.example", "reg.example"),
        ("reg.example:5000", "reg.example:5000"),
        ("http://reg.example:5000", "reg.example:5000"),
        ("HTTPS://10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("fd00::/8", "fd00::/8"),
        ("::1", "::1"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_an_insecure_registry_is_a_host_or_a_network(text: str, expected: str) -> None:
    assert parse_insecure(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://foo", "insecure registry ftp://foo should not contain '://'"),
        ("foo/bar", 'insecure registry foo/bar is not valid: invalid host "foo/bar"'),
        ("http://foo:5000/", 'insecure registry http://foo:5000/ is not valid: invalid host "foo:5000/"'),
        ("foo:99999", 'insecure registry foo:99999 is not valid: invalid port "99999"'),
        ("10.0.0.0/99", 'insecure registry 10.0.0.0/99 is not valid: invalid host "10.0.0.0/99"'),
        ("-bad", 'insecure registry -bad is not valid: invalid host "-bad"'),
        ("", 'insecure registry  is not valid: invalid host ""'),
    ],
)
def test_what_is_no_insecure_registry_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_insecure(text)
    assert str(caught.value) == message


def test_a_token_server_is_named_with_its_registry() -> None:
    assert parse_token_server("r.example:5000=a.example") == TokenServer(registry="r.example:5000", host="a.example")
    assert parse_token_server("r.example:443=a.example:444") == TokenServer(registry="r.example", host="a.example:444")


@pytest.mark.parametrize("text", ["a.example", "=a.example", "r.example=", "r.example=https://a.example/token", "a=b=c"])
def test_what_is_no_token_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be REGISTRY=HOST\[:PORT\]$"):
        parse_token_server(text)
