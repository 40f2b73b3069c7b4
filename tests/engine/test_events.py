"""Events: shape, filters, replay, and listeners that fall behind."""

from __future__ import annotations

import asyncio
import time

import msgspec

from wherry.engine.events import BACKLOG, EventBus
from wherry.spec.docker.event import Event


async def collect(bus: EventBus, count: int, **query: object) -> list[Event]:
    found = []
    stream = bus.stream(**query)  # type: ignore[arg-type]
    async for event in stream:
        found.append(event)
        if len(found) == count:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    return found


def test_a_container_event_has_dockers_old_keys_too() -> None:
    async def scenario() -> None:
        bus = EventBus()
        bus.publish("container", "start", "abc", {"image": "bb", "name": "x"})
        (event,) = await collect(bus, 1, since_ns=1)
        body = msgspec.json.decode(msgspec.json.encode(event))
        assert (body["status"], body["id"], body["from"]) == ("start", "abc", "bb")
        assert body["Actor"] == {"ID": "abc", "Attributes": {"image": "bb", "name": "x"}}
        assert body["time"] == body["timeNano"] // 1_000_000_000

    asyncio.run(scenario())


def test_filters_are_alternatives_within_a_key_and_all_needed_between_keys() -> None:
    async def scenario() -> None:
        bus = EventBus()
        bus.publish("container", "start", "abcdef", {"name": "x", "image": "bb", "k": "v"})
        bus.publish("container", "exec_start: ls", "abcdef", {"name": "x", "image": "bb"})
        bus.publish("network", "connect", "net", {"name": "n", "container": "abcdef"})

        async def count(**filters: list[str]) -> int:
            return len(await collect(bus, 10, since_ns=1, until_ns=time.time_ns(), filters=filters))

        assert await count(type=["container"]) == 2
        assert await count(type=["container", "network"]) == 3
        assert await count(event=["exec_start"]) == 1
        assert await count(container=["x"], event=["start"]) == 1
        assert await count(container=["abcdef"]) == 3
        assert await count(label=["k=v"]) == 1
        assert await count(label=["k=w"]) == 0
        assert await count(image=["bb"]) == 2
        assert await count(colour=["red"], event=["start"]) == 1  # Docker knows no such key either, and passes over it

    asyncio.run(scenario())


def test_a_stream_with_an_end_stops_there() -> None:
    async def scenario() -> None:
        start = time.monotonic()
        assert await collect(EventBus(), 1, until_ns=time.time_ns() + 50_000_000) == []
        assert time.monotonic() - start < 5

    asyncio.run(scenario())


def test_a_listener_that_never_reads_is_cut_off_and_holds_no_more() -> None:
    async def scenario() -> None:
        bus = EventBus()
        stream = bus.stream()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for number in range(BACKLOG + 10):
            bus.publish("container", "start", str(number))
        assert (await first).actor.id == "0"
        rest = [event async for event in stream]
        assert len(rest) < BACKLOG

    asyncio.run(scenario())
