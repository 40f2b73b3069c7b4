"""Times on the command line."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidRequest
from wherry.spec.moment import go_duration, to_unix, until_ns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "400.000000000"),
        ("0", "0"),
        ("1.5s", "998.500000000"),
        ("1363181017.5", "1363181017.5"),
        ("2013-01-02T13:23:37Z", "1357133017.000000000"),
        ("2013-01-02T13:23:37.123+01:00", "1357129417.123000000"),
    ],
)
def test_each_form_of_time_becomes_unix_seconds(text: str, expected: str) -> None:
    assert to_unix(text, now=1000.0) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bogus", 'failed to parse value as time or duration: "bogus"'),
        ("1.2.3", 'failed to parse value as time or duration: "1.2.3"'),
        ("2013-99-01", 'parsing time "2013-99-01": month out of range'),
        ("2013-02-30", 'parsing time "2013-02-30": day out of range'),
        ("2013-01-02T25:00", 'parsing time "2013-01-02T25:00": hour out of range'),
    ],
)
def test_what_is_no_time_is_told_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        to_unix(text)
    assert str(caught.value) == words


@given(st.text(max_size=12))
def test_a_filter_is_one_moment_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert isinstance(until_ns({"until": [text]}), int)


def test_a_filter_may_be_absent_and_a_negative_duration_is_in_the_future() -> None:
    assert until_ns({}) is None
    assert until_ns({"until": ["1700000000.5"]}) == 1700000000_500000000
    assert (until_ns({"until": ["-1h"]}) or 0) > time.time_ns()
    with pytest.raises(InvalidRequest, match="more than one until filter specified"):
        until_ns({"until": ["1h", "2h"]})


def test_durations_are_printed_as_go_prints_them() -> None:
    seconds = (0, 5, 90, 1.5, 0.02, 3723, -7200, 0.0000015, 0.000000001, 5400.5)
    shown = "0s 5s 1m30s 1.5s 20ms 1h2m3s -2h0m0s 1.5µs 1ns 1h30m0.5s"
    assert " ".join(go_duration(round(number * 10**9)) for number in seconds) == shown
