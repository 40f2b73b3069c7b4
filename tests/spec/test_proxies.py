"""Which proxy leads where."""

from __future__ import annotations

import pytest

from wherry.spec.proxies import Proxies, masked, of_environment

NO = "example.com, .only.org,*.star.org,10.0.0.0/8,192.168.1.1,[fd00::1],port.net:8443,::2"


@pytest.mark.parametrize(
    ("url", "is_direct"),
    [
        ("https://registry.io/v2/", False),
        ("https://localhost:5000/v2/", True),
        ("https://127.1.2.3/v2/", True),
        ("https://[::1]:5000/v2/", True),
        ("https://example.com/v2/", True),
        ("https://EXAMPLE.com:444/v2/", True),
        ("https://a.example.com/v2/", True),
        ("https://notexample.com/v2/", False),
        ("https://only.org/v2/", False),
        ("https://a.only.org/v2/", True),
        ("https://star.org/v2/", False),
        ("https://a.star.org/v2/", True),
        ("https://10.9.8.7:5000/v2/", True),
        ("https://11.9.8.7:5000/v2/", False),
        ("https://192.168.1.1/v2/", True),
        ("https://192.168.1.11/v2/", False),
        ("https://[fd00::1]:5000/v2/", True),
        ("https://[::2]/v2/", True),
        ("https://port.net/v2/", False),
        ("https://port.net:8443/v2/", True),
        ("https://a.port.net:8443/v2/", True),
    ],
)
def test_what_is_named_and_loopback_are_reached_directly(url: str, is_direct: bool) -> None:
    assert Proxies(https="http://proxy:1", no=NO).for_url(url) == (None if is_direct else "http://proxy:1")
    assert Proxies(https="http://proxy:1", no="a, *").for_url(url) is None
    assert Proxies(http="http://proxy:1").for_url(url) is None


def test_the_environment_may_be_in_capitals_or_not() -> None:
    found = of_environment({"HTTP_PROXY": "u:p@one:1", "http_proxy": "two", "https_proxy": "three", "no_proxy": "four"})
    assert found == Proxies(http="u:p@one:1", https="three", no="four")
    assert found.for_url("http://registry.io/v2/") == "http://u:p@one:1"


def test_a_proxy_that_is_not_spoken_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match=r"invalid proxy address 'socks5://xxxxx:xxxxx@host': it must be http:// or https://"):
        Proxies(http="socks5://user:secret@host").checked()
    assert masked("http://user:secret@host:1") == "http://xxxxx:xxxxx@host:1"
    assert masked("user:secret@host:1") == "xxxxx:xxxxx@host:1"
    assert masked("http://host:1") == "http://host:1"
