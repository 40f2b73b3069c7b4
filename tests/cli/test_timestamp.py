"""Times on the command line."""

from __future__ import annotations

import pytest

from wherry.cli.timestamp import to_unix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "400.000000000"),
        ("1.5s", "998.500000000"),
        ("1363181017.5", "1363181017.5"),
        ("2013-01-02T13:23:37Z", "1357133017.000000000"),
        ("2013-01-02T13:23:37.123+01:00", "1357129417.123000000"),
    ],
)
def test_each_form_of_time_becomes_unix_seconds(text: str, expected: str) -> None:
    assert to_unix(text, now=1000.0) == expected


@pytest.mark.parametrize("text", ["bogus", "2013-99-99", "1.2.3"])
def test_what_is_no_time_is_told_in_dockers_words(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        to_unix(text)
    assert str(caught.value) == f'failed to parse value as time or duration: "{text}"'
