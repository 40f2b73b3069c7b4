"""Events: shape, filters, replay, and listeners that fall behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import msgspec

from wherry.containers import present
from wherry.containers.record import ContainerRecord, State
from wherry.engine.events import BACKLOG, EventBus
from wherry.spec.docker.container import Config, HostConfig
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


def _owner(labels: dict[str, str]) -> ContainerRecord:
    config = Config(image="bb", labels=labels)
    common = {"created_ns": 0, "image_id": "", "host_config": HostConfig(), "path": "", "args": [], "state": State(), "snapshot": ""}
    return ContainerRecord(id="a" * 64, name="x", config=config, **common)  # type: ignore[arg-type]


class Counted(dict[str, str]):
    """Labels that tell how often somebody went through them."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        self.looks += 1
        return super().__iter__()


def test_labels_are_put_together_for_those_who_listen_and_once_for_all() -> None:
    async def scenario() -> None:
        bus, labels = EventBus(), Counted({f"label{number}": "v" for number in range(1000)} | {"name": "a label"})
        bus.publish("container", "start", "abc", present.attributes(_owner(labels), exitCode="3"))
        assert labels.looks == 0
        for _ in range(3):
            (event,) = await collect(bus, 1, since_ns=1)
            attributes = event.actor.attributes
            assert list(attributes) == sorted([*labels, "exitCode", "image"])
            assert (attributes["name"], attributes["image"], attributes["exitCode"]) == ("x", "bb", "3")
        assert labels.looks < 5  # that of the comparison among them

    asyncio.run(scenario())


def test_of_events_with_many_attributes_fewer_are_remembered_and_wait() -> None:
    """256 events of a container with 190,000 labels were 2 GB."""

    async def scenario() -> None:
        bus = EventBus(most_attributes=10_000)
        owner = _owner({str(number): "" for number in range(1000)})
        stream = bus.stream()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for number in range(30):
            bus.publish("container", "start", str(number), present.attributes(owner))
        assert (await first).actor.id == "0"
        assert [event.actor.id async for event in stream] == [str(number) for number in range(1, 10)]
        assert [event.actor.id for event in await collect(bus, 30, since_ns=1, until_ns=time.time_ns())] == [str(n) for n in range(21, 30)]
        owner = _owner({str(number): "" for number in range(20_000)})
        bus.publish("container", "start", "huge", present.attributes(owner))
        assert [event.actor.id for event in await collect(bus, 30, since_ns=1, until_ns=time.time_ns())] == ["huge"]

    asyncio.run(scenario())
