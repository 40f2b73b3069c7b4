"""What happened, told to whoever listens: Docker's event stream.  Source: Engine API 1.51 SystemEvents."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

REMEMBERED = 256  # events that a late listener can ask for with `since`, as Docker keeps
BACKLOG = 4096  # events a listener may fall behind before it is cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to one object, at ``at_ns`` nanoseconds since the epoch."""

    kind: str  # container, image, network, volume, builder, daemon
    action: str
    ident: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    at_ns: int

    def to_json(self) -> dict[str, object]:
        """Docker's shape; ``status``, ``id`` and ``from`` repeat the newer keys for containers and images."""
        body: dict[str, object] = {}
        if self.kind in ("container", "image"):
            body = {"status": self.action, "id": self.ident}
            if self.kind == "container" and "image" in self.attributes:
                body["from"] = self.attributes["image"]
        return {
            **body,
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.ident, "Attributes": dict(self.attributes)},
            "scope": "local",
            "time": self.at_ns // 1_000_000_000,
            "timeNano": self.at_ns,
        }


class EventBus:
    """Remembers the last events and hands new ones to every listener, in order."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=REMEMBERED)
        self._listeners: set[asyncio.Queue[Event | None]] = set()

    def publish(self, kind: str, action: str, ident: str, attributes: Mapping[str, str] | None = None) -> None:
        event = Event(kind=kind, action=action, ident=ident, attributes=dict(attributes or {}), at_ns=time.time_ns())
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
        self, *, since_ns: int | None = None, until_ns: int | None = None, filters: Mapping[str, list[str]] | None = None
    ) -> AsyncIterator[Event]:
        """Remembered events from ``since_ns`` on, then new ones until ``until_ns``; endless without it."""
        wanted = filters or {}
        with self._listening() as queue:
            if since_ns is not None:
                for event in tuple(self._past):
                    if event.at_ns >= since_ns and (until_ns is None or event.at_ns <= until_ns) and matches(event, wanted):
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


def matches(event: Event, filters: Mapping[str, list[str]]) -> bool:
    """Values of one key are alternatives (labels must all hold), different keys must all hold."""
    return all(_matches_one(event, key, values) for key, values in filters.items() if values)


def _matches_one(event: Event, key: str, values: list[str]) -> bool:
    if key == "type":
        return event.kind in values
    if key in ("event", "action"):
        return any(event.action == value or event.action.startswith(value + ":") for value in values)
    if key == "label":
        return all(_has_label(event.attributes, value) for value in values)
    if key == "scope":
        return "local" in values
    if key == "image":
        return any(
            value
            in (
                event.ident if event.kind == "image" else None,
                event.attributes.get("image"),
                event.attributes.get("name") if event.kind == "image" else None,
            )
            for value in values
        )
    if key in ("container", "network", "volume", "daemon"):
        if event.kind == key:
            return any(
                event.ident == value or event.attributes.get("name") == value or (len(value) >= 4 and event.ident.startswith(value))
                for value in values
            )
        return key == "container" and any(event.attributes.get("container", "").startswith(value) for value in values)
    return False


def _has_label(attributes: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in attributes and (not equals or attributes[name] == value)
