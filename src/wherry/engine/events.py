"""What happened, told to whoever listens: Docker's event stream.  Source: Engine API 1.51 SystemEvents."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from wherry.spec.docker.event import Actor, Event

REMEMBERED = 256  # events that a late listener can ask for with `since`, as Docker keeps
BACKLOG = 4096  # events a listener may fall behind before it is cut off


def _event(kind: str, action: str, ident: str, attributes: Mapping[str, str], at_ns: int) -> Event:
    """Docker's shape; ``status``, ``id`` and ``from`` repeat the newer keys for containers and images."""
    event = Event(
        type=kind,
        action=action,
        actor=Actor(id=ident, attributes=dict(attributes)),
        time=at_ns // 1_000_000_000,
        time_nano=at_ns,
    )
    if kind in ("container", "image"):
        event.status, event.id = action, ident
        event.source = attributes.get("image", "") if kind == "container" else ""
    return event


class EventBus:
    """Remembers the last events and hands new ones to every listener, in order."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=REMEMBERED)
        self._listeners: set[asyncio.Queue[Event | None]] = set()

    def publish(self, kind: str, action: str, ident: str, attributes: Mapping[str, str] | None = None) -> None:
        event = _event(kind, action, ident, dict(sorted((attributes or {}).items())), time.time_ns())
        self._past.append(event)
        for queue in tuple(self._listeners):
            if queue.qsize() >= BACKLOG:  # a listener that never reads must not hold the engine's memory
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Queue[Event | None]]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    async def stream(
        self, *, since_ns: int | None = None, until_ns: int | None = None, filters: Mapping[str, Sequence[str]] | None = None
    ) -> AsyncIterator[Event]:
        """Remembered events from ``since_ns`` on, then new ones until ``until_ns``; endless without it."""
        wanted = filters or {}
        with self._listening() as queue:
            if since_ns is not None:
                for event in tuple(self._past):
                    if event.time_nano >= since_ns and (until_ns is None or event.time_nano <= until_ns) and matches(event, wanted):
                        yield event
            while True:
                remaining = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if remaining is not None and remaining <= 0:
                    return
                try:
                    fresh = await asyncio.wait_for(queue.get(), remaining)
                except TimeoutError:
                    return
                if fresh is None:
                    return
                if matches(fresh, wanted):
                    yield fresh


def matches(event: Event, filters: Mapping[str, Sequence[str]]) -> bool:
    """Values of one key are alternatives (labels must all hold), different keys must all hold."""
    return all(_matches_one(event, key, values) for key, values in filters.items() if values)


def _matches_one(event: Event, key: str, values: Sequence[str]) -> bool:
    if key == "type":
        return event.type in values
    if key in ("event", "action"):
        return any(event.action == value or event.action.startswith(value + ":") for value in values)
    if key == "label":
        return all(_has_label(event.actor.attributes, value) for value in values)
    if key == "scope":
        return "local" in values
    if key == "image":
        return any(
            value
            in (
                event.actor.id if event.type == "image" else None,
                event.actor.attributes.get("image"),
                event.actor.attributes.get("name") if event.type == "image" else None,
            )
            for value in values
        )
    if key in ("container", "network", "volume", "daemon"):
        if event.type == key:
            return any(
                event.actor.id == value
                or event.actor.attributes.get("name") == value
                or (len(value) >= 4 and event.actor.id.startswith(value))
                for value in values
            )
        return key == "container" and any(event.actor.attributes.get("container", "").startswith(value) for value in values)
    return True  # Docker passes over what it does not know


def _has_label(attributes: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in attributes and (not equals or attributes[name] == value)
