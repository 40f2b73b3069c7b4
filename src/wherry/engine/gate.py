"""Builds begin while nothing is being removed: one may stand on any layer that it finds, and from then on removals know of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Many removals at a time; who waits for them to end goes before those that come later."""

    def __init__(self) -> None:
        self._removing = 0
        self._none_left = asyncio.Event()
        self._waiting = 0
        self._none_waits = asyncio.Event()

    @asynccontextmanager
    async def removal(self) -> AsyncIterator[None]:
        while self._waiting:
            self._none_waits.clear()
            await self._none_waits.wait()
        self._removing += 1
        try:
            yield
        finally:
            self._removing -= 1
            if not self._removing:
                self._none_left.set()

    async def wait_for_removals(self) -> None:
        """What the caller does next, without awaiting anything, every later removal sees."""
        self._waiting += 1
        try:
            while self._removing:
                self._none_left.clear()
                await self._none_left.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._none_waits.set()
