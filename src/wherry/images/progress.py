"""Progress as Docker's API streams it: one JSON object for each step of each layer.  Source: Engine API 1.51, ImageCreate, ImagePush."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from wherry.images.blocking import end

Record = dict[str, Any]
Emit = Callable[[Record], None]

_INTERVAL_S = 0.1
_RETRYING = "Retrying in"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def status(text: str, ident: str | None = None) -> Record:
    """A line of its own, or (with ``ident``) one about a layer that has no numbers."""
    return {"status": text} if ident is None else {"status": text, "progressDetail": {}, "id": ident}


def about(text: str, ident: str) -> Record:
    """``Pulling from x/y`` with the tag as id, which has no ``progressDetail``."""
    return {"status": text, "id": ident}


def moving(text: str, ident: str, current: int, total: int) -> Record:
    """So many bytes of so many; ``total`` 0 when it is not known."""
    detail = {"current": current, "total": total} if total else {"current": current}
    return {"status": text, "progressDetail": detail, "progress": bar(current, total), "id": ident}


def retrying(emit: Emit, ident: str) -> Callable[[int], None]:
    """Tells how many seconds are left until something about the layer ``ident`` is tried again."""

    def tell(left_s: int) -> None:
        emit(status(f"{_RETRYING} {left_s} second{'' if left_s == 1 else 's'}", ident))

    return tell


def aux(value: Record) -> Record:
    return {"progressDetail": {}, "aux": value}


def bar(current: int, total: int) -> str:
    """``[=====>     ]  1.2MB/3.4MB``, as a terminal of 200 columns shows it."""
    if total <= 0:
        return f"{human_size(current):>8}"
    filled = min(50, current * 100 // total // 2)
    line = "=" * filled + ">" + " " * (50 - filled) if filled < 50 else "=" * 50 + ">"
    numbers = f"{human_size(current):>8}" + (f"/{human_size(total)}" if current <= total else "")
    return f"[{line}] {numbers}"


def human_size(size_bytes: int) -> str:
    """Decimal units with four significant digits: ``1.982MB``."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.4g}{unit}"
        value /= 1000
    return f"{size_bytes}B"


def once(emit: Emit) -> Emit:
    """Passes on what is said of a layer the first time only: an image may have the same one twice."""
    said: set[tuple[str, str]] = set()

    def pass_on(record: Record) -> None:
        told = (record.get("id", ""), record.get("status", ""))
        if "progress" in record or told not in said or told[1].startswith(_RETRYING):
            said.add(told)
            emit(record)

    return pass_on


class Meter:
    """Turns byte counts into records, not more than ten in a second, and always the last."""

    def __init__(self, emit: Emit, text: str, ident: str, total: int) -> None:
        self._emit = emit
        self._text = text
        self._ident = ident
        self._total = total
        self._next = 0.0
        self._last = -1

    def __call__(self, current: int) -> None:
        now = time.monotonic()
        if current != self._last and (now >= self._next or current >= self._total > 0):
            self._next = now + _INTERVAL_S
            self._last = current
            self._emit(moving(self._text, self._ident, current, self._total))


async def stream(work: Callable[[Emit], Awaitable[object]]) -> AsyncIterator[Record]:
    """The records that ``work`` emits, while it runs; its failure is raised after the last of them.

    Closing the iterator (the client went away) cancels the work, and waits for its end.
    """
    queue: asyncio.Queue[Record | None] = asyncio.Queue()

    async def run() -> None:
        try:
            await work(queue.put_nowait)
        finally:
            queue.put_nowait(None)

    working = asyncio.ensure_future(run())
    try:  # no task group: it would make a group of exceptions of the reader's leave
        while (record := await queue.get()) is not None:
            yield record
        await working
    finally:
        await end(working)
