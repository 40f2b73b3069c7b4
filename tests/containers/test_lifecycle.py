"""The table of states, and Docker's words for them."""

from __future__ import annotations

import pytest

from wherry.containers.lifecycle import TRANSITIONS, Event, Status, advance, describe, human_duration
from wherry.errors import Conflict

NS = 1_000_000_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_read_as_dockers(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


def test_every_state_can_be_left_towards_removal_or_an_end() -> None:
    leaving = {status for status, _ in TRANSITIONS}
    assert leaving == set(Status)


def test_what_may_not_happen_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="cannot pause a container that is exited"):
        advance(Status.EXITED, Event.PAUSE)


@pytest.mark.parametrize(
    ("status", "health", "text"),
    [
        (Status.RUNNING, "", "Up 5 seconds"),
        (Status.RUNNING, "starting", "Up 5 seconds (health: starting)"),
        (Status.RUNNING, "healthy", "Up 5 seconds (healthy)"),
        (Status.PAUSED, "", "Up 5 seconds (Paused)"),
        (Status.EXITED, "", "Exited (3) 2 seconds ago"),
        (Status.RESTARTING, "", "Restarting (3) 2 seconds ago"),
        (Status.CREATED, "", "Created"),
        (Status.REMOVING, "", "Removal In Progress"),
        (Status.DEAD, "", "Dead"),
    ],
)
def test_status_column(status: Status, health: str, text: str) -> None:
    assert describe(status, exit_code=3, started_at_ns=5 * NS, finished_at_ns=8 * NS, now_ns=10 * NS, health=health) == text
