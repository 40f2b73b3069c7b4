"""Filters, history and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wherry.errors import InvalidRequest, NotFound
from wherry.images.listing import matches_name

Experiment = Callable[..., None]


@pytest.mark.root
def test_images_are_listed_newest_first_and_by_filter(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        old = lab.loaded(make_image({"a": b"1"}, labels={"k": "v"}, created="2026-01-01T00:00:00Z"), "old:1", "a/b:2")
        new = lab.loaded(make_image({"a": b"1"}, {"b": b"22"}, created="2026-02-01T00:00:00Z"), "new:1")
        lab.loaded(make_image({"c": b"3"}, created="2026-03-01T00:00:00Z"), "new:2")
        dangling = lab.images.resolve("new:2")
        lab.images.tag("old:1", "new:2")

        def listed(**filters: list[str]) -> list[str]:
            return [image.id for image in lab.images.list(filters)]

        assert listed() == [dangling.id, new.id, old.id]
        assert listed(dangling=["true"]) == [dangling.id]
        assert listed(dangling=["false"]) == [new.id, old.id]
        assert listed(label=["k=v"]) == [old.id]
        assert listed(before=["new:1"]) == [old.id]
        assert listed(since=["new:1"]) == [dangling.id]
        assert listed(until=["2026-01-15"]) == [old.id]
        [found] = lab.images.list({"reference": ["a/*"]})
        assert found.repo_tags == ("a/b:2",)
        with pytest.raises(InvalidRequest, match="invalid filter 'nope'"):
            listed(nope=["x"])
        with pytest.raises(NotFound, match="No such image: nope"):
            listed(before=["nope"])
        usage = lab.images.usage()
        assert usage.layers_bytes == 4
        assert usage.shared_bytes == {old.id: 1, new.id: 1, dangling.id: 0}
        lines = lab.images.history("new:1")
        assert [(line.id, line.created_by, line.size_bytes) for line in lines] == [(new.id, "step 1", 2), ("<missing>", "step 0", 1)]

    experiment(body)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("node", "node:20", True),
        ("node:2*", "node:20", True),
        ("no*", "node:20", True),
        ("*", "a/b:1", False),
        ("a/*", "a/b:1", True),
        ("[n-z]ode", "node:1", True),
        ("[^n]ode", "node:1", False),
    ],
)
def test_a_reference_pattern_stops_at_slashes(pattern: str, name: str, fits: bool) -> None:
    assert matches_name(pattern, name) is fits
