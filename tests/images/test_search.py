"""Which search results are wanted."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidRequest
from wherry.images.search import condition

FOUND = [
    {"name": "a", "star_count": 5, "is_official": True, "is_automated": False},
    {"name": "b", "star_count": 50, "is_official": False, "is_automated": True},
]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["a", "b"]),
        ({"stars": ["6"]}, ["b"]),
        ({"stars": ["1", "60"]}, []),
        ({"is-official": ["true"]}, ["a"]),
        ({"is-automated": ["0"]}, ["a"]),
    ],
)
def test_results_are_chosen_by_stars_and_kind(filters: dict[str, list[str]], names: list[str]) -> None:
    assert [found["name"] for found in filter(condition(filters), FOUND)] == names


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"bogus": ["1"]}, "invalid filter 'bogus'"),
        ({"stars": ["x"]}, "invalid filter 'stars=x': strconv.Atoi: parsing \"x\": invalid syntax"),
        ({"is-official": ["maybe"]}, "invalid filter 'is-official=[maybe]'"),
    ],
)
def test_wrong_filters_are_refused_before_anybody_is_asked(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        condition(filters)
    assert str(caught.value) == message
