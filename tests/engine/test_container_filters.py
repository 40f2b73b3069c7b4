"""Filters of `ps`."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.container_filters import ContainerFilter, has_labels, parse_until
from wherry.errors import EngineError, InvalidRequest, NotFound


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


def test_until_is_a_duration_or_a_time() -> None:
    assert abs(parse_until(("1h30m",)) - (time.time() - 5400)) < 5
    assert parse_until(("1700000000.5",)) == 1700000000.5
    assert parse_until(("2023-11-14",)) < time.time()


@given(st.text(max_size=12))
def test_any_other_until_is_refused(text: str) -> None:
    try:
        moment = parse_until((text,))
    except InvalidRequest:
        return
    assert isinstance(moment, float)
