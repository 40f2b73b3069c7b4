"""Nobody's removal is under way when a build begins, and removals that come later wait for it to have begun."""

from __future__ import annotations

import asyncio

from wherry.engine.gate import Gate


def test_a_build_waits_for_removals_and_goes_before_later_ones():
    async def check() -> None:
        gate, told = Gate(), []

        async def remove(name: str, end: asyncio.Event) -> None:
            async with gate.removal():
                told.append(name)
                await end.wait()

        async def begin() -> None:
            await gate.wait_for_removals()
            told.append("build")

        ends = [asyncio.Event() for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for name, end in zip(("first", "beside"), ends, strict=False):
                tasks.create_task(remove(name, end))
            await asyncio.sleep(0)
            build = tasks.create_task(begin())
            await asyncio.sleep(0)
            tasks.create_task(remove("later", ends[2]))
            ends[0].set()
            for _ in range(10):
                await asyncio.sleep(0)
            assert told == ["first", "beside"]
            ends[1].set()
            await build
            for _ in range(10):
                await asyncio.sleep(0)
            assert told == ["first", "beside", "build", "later"]
            ends[2].set()
        await gate.wait_for_removals()

    asyncio.run(check())


def test_a_build_that_is_cancelled_while_it_waits_holds_nobody_up():
    async def check() -> None:
        gate = Gate()
        async with gate.removal():
            waiting = asyncio.ensure_future(gate.wait_for_removals())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            async with gate.removal():
                pass

    asyncio.run(asyncio.wait_for(check(), 10))
