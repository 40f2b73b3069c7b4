"""The engine's task group: one task's bug is logged, and the daemon with all its containers goes on."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Tasks(asyncio.TaskGroup):
    """As ``asyncio.TaskGroup``, but an exception ends only the task it was raised in; whoever awaits that task gets None."""

    def create_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        if not isinstance(coro, Coroutine):
            raise TypeError("a generator is no task")
        outcome: asyncio.Task[T] = super().create_task(self._guarded(coro, name), name=name, context=context)
        return outcome

    async def _guarded(self, coro: Coroutine[Any, Any, T], name: str | None) -> Any:
        try:
            return await coro
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # also a generator's exit or a group of cancellations: they would end all tasks, and with them the daemon
            log.exception("task %s failed", name or getattr(coro, "__qualname__", "of the engine"))
            return None
