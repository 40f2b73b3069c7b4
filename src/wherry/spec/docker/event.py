"""Events.  Source: Engine API 1.51 SystemEvents."""

from __future__ import annotations

from msgspec import field

from wherry.spec.docker.body import Body, shown


class Actor(Body):
    id: str = shown("", "ID")
    attributes: dict[str, str] = shown({})


class Event(Body):
    """``status``, ``id`` and ``source`` (JSON ``from``) repeat action, actor and image, only for containers and images."""

    status: str = field(default="", name="status")
    id: str = field(default="", name="id")
    source: str = field(default="", name="from")
    type: str = shown("")
    action: str = shown("")
    actor: Actor = shown(Actor())
    scope: str = shown("local", "scope")
    time: int = shown(0, "time")
    time_nano: int = shown(0, "timeNano")
