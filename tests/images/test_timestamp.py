"""RFC 3339 there and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.images.timestamp import from_ns, to_ns


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4 * 10**18))
def test_a_moment_survives_being_written(moment: int) -> None:
    assert to_ns(from_ns(moment)) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("0001-01-01T00:00:00Z", -62135596800 * 10**9),
        (None, 0),
        ("x", 0),
        ("2026-13-01T00:00:00Z", 0),
    ],
)
def test_what_is_no_time_is_zero(text: str | None, moment: int) -> None:
    assert to_ns(text) == moment
