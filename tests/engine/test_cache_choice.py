from __future__ import annotations

from pathlib import Path

import pytest

from wherry.build.cache import Entry
from wherry.engine.cache_choice import cache_choice
from wherry.errors import InvalidRequest
from wherry.spec.docker.request import CachePrune

ENTRY = Entry(kind="layer", parent="p", description="RUN x")


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, True),
        ({"id": ["b.d"]}, True),
        ({"id": ["x"]}, False),
        ({"parent": ["p"], "type": ["regular"], "description": ["RUN x"]}, True),
        ({"type": ["exec.cachemount"]}, False),
        ({"inuse": ["true"]}, False),
    ],
)
def test_fields_choose_entries(filters: dict[str, list[str]], fits: bool) -> None:
    choice = cache_choice(CachePrune(), filters, "/")
    assert choice is not None
    assert choice.fits("abcd", ENTRY) is fits


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"nope": ["1"]}, "invalid filter 'nope'"),
        ({"until": ["1h", "2h"]}, "filters expect only one value"),
        (
            {"until": ["soon"]},
            '"until" filter expects a duration (e.g., \'24h\') or a timestamp: failed to parse value as time or duration: "soon"',
        ),
    ],
)
def test_wrong_filters_are_refused_in_dockers_words(filters: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        cache_choice(CachePrune(), filters, "/")
    assert str(caught.value) == f"failed to prune build cache: {words}"


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (CachePrune(), 0),
        (CachePrune(reserved_space=10), 10),
        (CachePrune(max_used_space=60), 60),
        (CachePrune(max_used_space=200), 100),
        (CachePrune(max_used_space=5, reserved_space=10), 10),
        (CachePrune(min_free_space=1), 100),
        (CachePrune(min_free_space=1 << 62, reserved_space=7), 7),
    ],
)
def test_how_much_may_stay_of_a_hundred_bytes(tmp_path: Path, request_: CachePrune, kept: int) -> None:
    choice = cache_choice(request_, {}, str(tmp_path))
    assert choice is not None
    assert choice.keeps(100) == kept
