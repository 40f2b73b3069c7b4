"""Work that several wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from wherry.images.flights import Flights


def test_two_who_want_the_same_wait_for_one_work_and_both_hear_of_its_progress() -> None:
    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            flights = Flights(group.create_task)
            begun, go_on = 0, asyncio.Event()
            heard: list[tuple[str, int]] = []

            async def work(tell: Callable[[int], None]) -> None:
                nonlocal begun
                begun += 1
                await go_on.wait()
                tell(7)

            waiting = [
                group.create_task(flights.join("blob", work, lambda done: heard.append(("first", done)))),
                group.create_task(flights.join("blob", work, lambda done: heard.append(("second", done)))),
            ]
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(*waiting)
            assert begun == 1
            assert heard == [("first", 7), ("second", 7)]

    asyncio.run(body())


def test_one_who_leaves_does_not_take_the_work_from_the_other() -> None:
    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            flights = Flights(group.create_task)
            go_on = asyncio.Event()
            done = False

            async def work(tell: Callable[[int], None]) -> None:
                nonlocal done
                await go_on.wait()
                done = True

            leaving, staying = (group.create_task(flights.join("blob", work)) for _ in range(2))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait({leaving})
            go_on.set()
            await staying
            assert done

    asyncio.run(body())


def test_the_last_one_who_leaves_ends_the_work() -> None:
    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            flights = Flights(group.create_task)
            ended = asyncio.Event()

            async def work(tell: Callable[[int], None]) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            task = group.create_task(flights.join("blob", work))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(body())


def test_a_failure_is_raised_for_each_and_the_next_one_tries_again() -> None:
    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            flights = Flights(group.create_task)

            async def fail(tell: Callable[[int], None]) -> None:
                raise ValueError("no")

            async def succeed(tell: Callable[[int], None]) -> None:
                return

            results = await asyncio.gather(*(flights.join("blob", fail) for _ in range(2)), return_exceptions=True)
            assert [str(result) for result in results] == ["no", "no"]
            await flights.join("blob", succeed)
            with pytest.raises(ValueError):
                await flights.join("blob", fail)

    asyncio.run(body())
