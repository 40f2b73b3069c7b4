"""One container's operations: one at a time, in order, to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from wherry.containers.container import Container
from wherry.containers.record import ContainerRecord, State
from wherry.spec.docker.container import Config, HostConfig


def container(tasks: asyncio.TaskGroup) -> Container:
    record = ContainerRecord(
        **{"id": "a" * 64, "name": "x", "created_ns": 0, "image_id": "", "path": "true", "args": [], "snapshot": "s"},
        config=Config(),
        host_config=HostConfig(),
        state=State(),
    )
    return Container(record, tasks)


@pytest.mark.parametrize("first", ["perform", "perform_here"])
@pytest.mark.parametrize("second", ["perform", "perform_here"])
def test_an_operation_begins_when_the_one_before_it_has_ended(first: str, second: str) -> None:
    async def main() -> list[str]:
        told: list[str] = []
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            told.append("slow begins")
            begun.set()
            await go_on.wait()
            told.append("slow ends")

        async def quick() -> None:
            told.append("quick")

        async with asyncio.TaskGroup() as tasks:
            one = container(tasks)
            tasks.create_task(getattr(one, first)(slow))
            await begun.wait()
            last = tasks.create_task(getattr(one, second)(quick))
            await asyncio.sleep(0)  # it has asked
            assert told == ["slow begins"]
            go_on.set()
            await last
            await one.perform(quick)  # nothing is stuck
        return told

    assert asyncio.run(asyncio.wait_for(main(), 10)) == ["slow begins", "slow ends", "quick", "quick"]


def test_an_operation_that_fails_fails_for_who_asked_and_the_next_one_runs() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def works() -> None:
        return None

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            one = container(tasks)
            ways: list[Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]] = [one.perform, one.perform_here]
            for way in ways:
                with pytest.raises(ZeroDivisionError):
                    await way(fails)
                await way(works)

    asyncio.run(asyncio.wait_for(main(), 10))
