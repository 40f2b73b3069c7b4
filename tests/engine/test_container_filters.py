"""Filters of `ps`."""

from __future__ import annotations

import pytest

from wherry.engine.container_filters import ContainerFilter, has_labels
from wherry.errors import EngineError, NotFound


def build(**filters: tuple[str, ...]) -> ContainerFilter:
    def nobody(name: str) -> object:
        raise NotFound(f"No such container: {name}")

    return ContainerFilter(filters, find=nobody, ancestors=lambda _: set(), published=lambda _: {}, networks=lambda _: set())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bogus", "x", "invalid filter 'bogus'"),
        (
            "status",
            "x",
            "invalid filter 'status=x': invalid value for state (x): "
            "must be one of created, running, paused, restarting, removing, exited, dead",
        ),
        ("exited", "x", "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"),
        ("health", "x", "invalid filter 'health=x': invalid value for health (x): must be one of none, starting, healthy, unhealthy"),
        ("before", "x", "No such container: x"),
    ],
)
def test_bad_filters_are_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        build(**{key: (value,)})
    assert str(caught.value) == message


def test_asking_for_a_status_shows_stopped_ones_too() -> None:
    assert build(status=("exited",)).wants_all
    assert not build(name=("x",)).wants_all


def test_all_labels_must_hold() -> None:
    labels = {"a": "1", "b": ""}
    assert has_labels(labels, ("a", "a=1", "b"))
    assert not has_labels(labels, ("a", "c"))
    assert not has_labels(labels, ("a=2",))
