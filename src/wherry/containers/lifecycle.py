"""A container's states and what moves it between them: one table.  Docker's flags are computed from it when answering."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from wherry.errors import Conflict


class Status(StrEnum):
    """Docker's State.Status."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"  # ended, and the restart policy will start it again
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"  # removal failed half-way


class Event(StrEnum):
    START = "start"
    FAIL = "fail"  # a start that failed
    PAUSE = "pause"
    UNPAUSE = "unpause"
    EXIT = "exit"
    RETRY = "restart"  # ended, to be started again by its policy
    REMOVE = "remove"
    BREAK = "break"


TRANSITIONS = MappingProxyType(
    {
        (Status.CREATED, Event.START): Status.RUNNING,
        (Status.EXITED, Event.START): Status.RUNNING,
        (Status.RESTARTING, Event.START): Status.RUNNING,
        (Status.CREATED, Event.FAIL): Status.CREATED,
        (Status.EXITED, Event.FAIL): Status.EXITED,
        (Status.RESTARTING, Event.FAIL): Status.EXITED,
        (Status.RUNNING, Event.PAUSE): Status.PAUSED,
        (Status.PAUSED, Event.UNPAUSE): Status.RUNNING,
        (Status.RUNNING, Event.EXIT): Status.EXITED,
        (Status.PAUSED, Event.EXIT): Status.EXITED,
        (Status.RESTARTING, Event.EXIT): Status.EXITED,
        (Status.RUNNING, Event.RETRY): Status.RESTARTING,
        (Status.PAUSED, Event.RETRY): Status.RESTARTING,
        (Status.CREATED, Event.REMOVE): Status.REMOVING,
        (Status.EXITED, Event.REMOVE): Status.REMOVING,
        (Status.RESTARTING, Event.REMOVE): Status.REMOVING,
        (Status.DEAD, Event.REMOVE): Status.REMOVING,
        (Status.REMOVING, Event.REMOVE): Status.REMOVING,
        (Status.REMOVING, Event.BREAK): Status.DEAD,
    }
)


def advance(status: Status, event: Event) -> Status:
    """The status after ``event``.  Raises Conflict where it may not happen."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise Conflict(f"cannot {event} a container that is {status}") from None


def has_process(status: Status) -> bool:
    """True while a first process exists; Docker's ``Running`` is true for a paused container, and for one about to restart."""
    return status in (Status.RUNNING, Status.PAUSED)


def human_duration(seconds: float) -> str:
    """Docker's words for a length of time: `Less than a second`, `About a minute`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if hours < 24 * 7 * 2:
        return f"{days} days"
    if hours < 24 * 30 * 2:
        return f"{days // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{days // 30} months"
    return f"{days // 365} years"


def describe(status: Status, *, exit_code: int, started_at_ns: int, finished_at_ns: int, now_ns: int, health: str = "") -> str:
    """The STATUS column of `docker ps`."""
    up = human_duration(max(0, now_ns - started_at_ns) / 1e9)
    since_end = human_duration(max(0, now_ns - finished_at_ns) / 1e9)
    match status:
        case Status.RUNNING:
            return f"Up {up} ({'health: starting' if health == 'starting' else health})" if health and health != "none" else f"Up {up}"
        case Status.PAUSED:
            return f"Up {up} (Paused)"
        case Status.RESTARTING:
            return f"Restarting ({exit_code}) {since_end} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case Status.EXITED:
            return f"Exited ({exit_code}) {since_end} ago"
