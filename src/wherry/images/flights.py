"""One download for all who want the same blob, at the same time.

A flight belongs to nobody who waits for it: a waiter may leave and the others get theirs. It is cancelled when the last one leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

Progress = Callable[[int], None]
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class _Flight:
    def __init__(self) -> None:
        self.result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listeners: list[Progress] = []
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None


class Flights:
    """``spawn`` starts a task that outlives its caller (the engine's task group); such a task never raises."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._flying: dict[str, _Flight] = {}

    async def join(self, key: str, work: Callable[[Progress], Awaitable[None]], listener: Progress | None = None) -> None:
        """Wait until ``work`` is done for ``key``; it is begun only when nobody else has.  Raises what it raised."""
        flight = self._flying.get(key)
        if flight is None:
            flight = self._flying[key] = _Flight()
            flight.task = self._spawn(self._fly(key, flight, work))
        flight.waiters += 1
        if listener is not None:
            flight.listeners.append(listener)
        try:
            await asyncio.shield(flight.result)
        finally:
            flight.waiters -= 1
            if listener is not None:
                flight.listeners.remove(listener)
            if flight.waiters == 0 and not flight.result.done() and flight.task is not None:
                self._flying.pop(key, None)
                flight.task.cancel()

    async def _fly(self, key: str, flight: _Flight, work: Callable[[Progress], Awaitable[None]]) -> None:
        def tell(done: int) -> None:
            for listener in tuple(flight.listeners):
                listener(done)

        try:
            await work(tell)
        except asyncio.CancelledError:
            flight.result.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - raised in every waiter
            flight.result.set_exception(error)
            flight.result.exception()  # read once here, so that nobody is blamed when all waiters have left
        else:
            flight.result.set_result(None)
        finally:
            if self._flying.get(key) is flight:
                del self._flying[key]
