"""The engine's tasks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from wherry.engine.tasks import Tasks


@pytest.mark.parametrize("bug", [ValueError("a bug"), GeneratorExit("a bug"), BaseExceptionGroup("a bug", [GeneratorExit()])])
def test_a_bug_in_one_task_is_logged_and_ends_no_other(caplog: pytest.LogCaptureFixture, bug: BaseException) -> None:
    async def scenario() -> str:
        async def broken() -> None:
            raise bug

        async def fine() -> str:
            await asyncio.sleep(0.01)
            return "done"

        async with Tasks() as tasks:
            tasks.create_task(broken(), name="breaker")
            task = tasks.create_task(fine())
        return await task

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(scenario()) == "done"
    assert "breaker" in caplog.text
    assert "a bug" in caplog.text


def test_a_cancelled_task_is_cancelled() -> None:
    async def scenario() -> bool:
        async with Tasks() as tasks:
            task = tasks.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
        return task.cancelled()

    assert asyncio.run(scenario())
