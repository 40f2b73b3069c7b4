"""Blocking work in threads, for coroutines that may be cancelled while a thread still holds a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Run(Protocol):
    """How a blocking function is run in a thread: the engine's ``Workers.run``."""

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Awaitable[T]: ...


async def finish(work: Awaitable[T]) -> T:
    """Wait for ``work`` even when cancelled meanwhile, and only then let the cancellation go on: what it used may be closed now."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
