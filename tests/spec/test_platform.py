"""Platform names, as containerd reads them."""

from __future__ import annotations

import pytest

from wherry.spec.platform import InvalidPlatform, machine, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", ("linux", "amd64", "")),
        ("linux/x86_64", ("linux", "amd64", "")),
        ("Linux/AARCH64", ("linux", "arm64", "")),
        ("linux/arm64/v8", ("linux", "arm64", "v8")),
        ("linux/arm/7", ("linux", "arm", "v7")),
        ("armel", ("linux", "arm", "v6")),
        ("arm64", ("linux", "arm64", "")),
        ("windows(10.0.17763)/amd64", ("windows", "amd64", "")),
        ("plan9/unheard-of", ("plan9", "unheard-of", "")),
    ],
)
def test_a_platform_is_read_in_any_spelling(text: str, expected: tuple[str, str, str]) -> None:
    assert parse(text) == expected


def test_a_system_alone_is_for_this_machine() -> None:
    assert parse("linux") == ("linux", *machine())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bogus", '"bogus": unknown operating system or architecture: invalid argument'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: invalid argument'),
        (
            "linux/arm64,linux/amd64",
            '"arm64,linux" is an invalid component of "linux/arm64,linux/amd64": platform specifier component must match '
            '"^[A-Za-z0-9_.-]+$": invalid argument',
        ),
    ],
)
def test_what_is_no_platform_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidPlatform) as caught:
        parse(text)
    assert str(caught.value) == message
