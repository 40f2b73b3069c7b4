"""Restart policies."""

from __future__ import annotations

import pytest

from wherry.containers.restart import RestartPolicy, checked, next_delay
from wherry.errors import InvalidRequest


@pytest.mark.parametrize(
    ("policy", "code", "manual", "count", "again"),
    [
        (RestartPolicy(), 1, False, 0, False),
        (RestartPolicy(name="always"), 0, False, 0, True),
        (RestartPolicy(name="always"), 0, True, 0, False),
        (RestartPolicy(name="unless-stopped"), 1, False, 9, True),
        (RestartPolicy(name="on-failure"), 0, False, 0, False),
        (RestartPolicy(name="on-failure", maximum=2), 1, False, 1, True),
        (RestartPolicy(name="on-failure", maximum=2), 1, False, 2, False),
    ],
)
def test_after_an_exit(policy: RestartPolicy, code: int, manual: bool, count: int, again: bool) -> None:
    assert policy.wants(exit_code=code, manually_stopped=manual, count=count) is again


@pytest.mark.parametrize(
    ("policy", "code", "manual", "count", "again"),
    [
        (RestartPolicy(name="always"), 137, True, 0, True),
        (RestartPolicy(name="always"), 0, False, 9, True),
        (RestartPolicy(name="unless-stopped"), 137, True, 0, False),
        (RestartPolicy(name="unless-stopped"), 0, False, 0, True),
        (RestartPolicy(name="on-failure"), 0, False, 0, False),
        (RestartPolicy(name="on-failure"), 137, True, 0, True),
        (RestartPolicy(name="on-failure", maximum=2), 1, False, 1, True),
        (RestartPolicy(name="on-failure", maximum=2), 1, False, 2, False),
        (RestartPolicy(), 137, False, 0, False),
    ],
)
def test_at_daemon_start(policy: RestartPolicy, code: int, manual: bool, count: int, again: bool) -> None:
    assert policy.wants_at_daemon_start(manually_stopped=manual, exit_code=code, count=count) is again


def test_delays_double_to_a_minute_and_start_anew_after_a_long_run() -> None:
    delays = [next_delay(0, 0)]
    while delays[-1] < 60:
        delays.append(next_delay(delays[-1], 1))
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60
    assert next_delay(60, 10) == 0.1


@pytest.mark.parametrize(("name", "maximum"), [("bogus", 0), ("always", 1), ("on-failure", -1)])
def test_bad_policies_are_refused(name: str, maximum: int) -> None:
    with pytest.raises(InvalidRequest, match="invalid restart policy"):
        checked(name, maximum)
