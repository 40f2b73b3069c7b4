"""What happened, told to whoever listens: Docker's event stream.  Source: Engine API 1.51 SystemEvents."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from wherry.spec.docker.event import Actor, Event

REMEMBERED = 256  # events that a late listener can ask for with `since`, as Docker keeps
BACKLOG = 4096  # events a listener may fall behind before it is cut off
ATTRIBUTES = 1_000_000  # at most in what is remembered, and in what a listener is behind: a container's labels are as many as one likes


@dataclass(frozen=True, kw_only=True)
class _Happening:
    """What was published.  Docker's form of it, which costs with many labels, is made when somebody wants to hear of it."""

    kind: str
    action: str
    ident: str
    facts: Mapping[str, str]
    at_ns: int

    @cached_property
    def event(self) -> Event:
        """``status``, ``id`` and ``from`` repeat the newer keys for containers and images."""
        attributes = {name: self.facts[name] for name in sorted(self.facts)}
        event = Event(
            type=self.kind,
            action=self.action,
            actor=Actor(id=self.ident, attributes=attributes),
            time=self.at_ns // 1_000_000_000,
            time_nano=self.at_ns,
        )
        if self.kind in ("container", "image"):
            event.status, event.id = self.action, self.ident
            event.source = attributes.get("image", "") if self.kind == "container" else ""
        return event


class _Listener:
    """Somebody who hears one after the other."""

    def __init__(self, most_attributes: int) -> None:
        self._queue: asyncio.Queue[_Happening | None] = asyncio.Queue()
        self._most_attributes = most_attributes
        self._attributes = 0

    def give(self, one: _Happening) -> bool:
        """Whether there was room; otherwise nothing more comes: a listener that never reads must not hold the engine's memory."""
        there_is = self._queue.qsize() < BACKLOG and self._attributes <= self._most_attributes
        self._queue.put_nowait(one if there_is else None)
        self._attributes += len(one.facts)
        return there_is

    async def take(self) -> Event | None:
        """The next; None when it has fallen too far behind."""
        one = await self._queue.get()
        if one is None:
            return None
        self._attributes -= len(one.facts)
        return one.event


class EventBus:
    """Remembers the last events and hands new ones to every listener, in order."""

    def __init__(self, most_attributes: int = ATTRIBUTES) -> None:
        self._most_attributes = most_attributes
        self._past: deque[_Happening] = deque()
        self._attributes = 0
        self._listeners: set[_Listener] = set()

    def publish(self, kind: str, action: str, ident: str, attributes: Mapping[str, str] | None = None) -> None:
        """``attributes`` must not change any more."""
        one = _Happening(kind=kind, action=action, ident=ident, facts=attributes or {}, at_ns=time.time_ns())
        self._remember(one)
        for listener in tuple(self._listeners):
            if not listener.give(one):
                self._listeners.discard(listener)

    def _remember(self, one: _Happening) -> None:
        self._past.append(one)
        self._attributes += len(one.facts)
        while len(self._past) > REMEMBERED or (self._attributes > self._most_attributes and len(self._past) > 1):
            self._attributes -= len(self._past.popleft().facts)

    @contextmanager
    def _listening(self) -> Iterator[_Listener]:
        listener = _Listener(self._most_attributes)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def stream(
        self, *, since_ns: int | None = None, until_ns: int | None = None, filters: Mapping[str, Sequence[str]] | None = None
    ) -> AsyncIterator[Event]:
        """Remembered events from ``since_ns`` on, then new ones until ``until_ns``; endless without it."""
        wanted = filters or {}
        with self._listening() as listener:
            if since_ns is not None:
                for one in tuple(self._past):
                    if one.at_ns >= since_ns and (until_ns is None or one.at_ns <= until_ns) and matches(one.event, wanted):
                        yield one.event
            while True:
                remaining = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if remaining is not None and remaining <= 0:
                    return
                try:
                    fresh = await asyncio.wait_for(listener.take(), remaining)
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
