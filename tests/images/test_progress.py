"""Progress records, timestamps and shared work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wherry.images.flights import Flights
from wherry.images.progress import Meter, Record, bar, human_size, moving, once, status, stream


@pytest.mark.parametrize(
    ("current", "total", "shown"),
    [
        (34304, 1982256, "[>                                                  ]   34.3kB/1.982MB"),
        (1536, 0, " 1.536kB"),
        (87, 87, "[==================================================>]      87B/87B"),
        (1986560, 1982256, "[==================================================>]  1.987MB"),
    ],
)
def test_the_bar_is_the_one_that_docker_draws(current: int, total: int, shown: str) -> None:
    assert bar(current, total) == shown


def test_sizes_have_four_digits() -> None:
    assert [human_size(size) for size in (0, 999, 1000, 1982256, 10**12)] == ["0B", "999B", "1kB", "1.982MB", "1TB"]


def test_a_meter_tells_the_end_once() -> None:
    records: list[dict[str, Any]] = []
    meter = Meter(records.append, "Downloading", "x", 10)
    for current in (1, 2, 10, 10):
        meter(current)
    assert [record["progressDetail"]["current"] for record in records] == [1, 10]


def test_a_failure_comes_after_the_records_before_it() -> None:
    async def main() -> None:
        async def work(emit: Any) -> None:
            emit({"status": "a"})
            raise ValueError("b")

        records = stream(work)
        assert await anext(records) == {"status": "a"}
        with pytest.raises(ValueError, match="b"):
            await anext(records)

    asyncio.run(main())


def test_a_reader_that_leaves_between_two_records_ends_the_work_and_nothing_else() -> None:
    """The daemon's connection leaves so when it cannot send what it has got."""

    async def main() -> list[str]:
        ended: list[str] = []

        async def work(emit: Any) -> None:
            emit({"status": "a"})
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                ended.append("work")

        records = stream(work)
        assert await anext(records) == {"status": "a"}
        await records.aclose()  # type: ignore[attr-defined]
        return ended

    assert asyncio.run(main()) == ["work"]


def test_a_reader_that_is_cancelled_again_and_again_waits_for_the_end_of_the_work() -> None:
    async def main() -> list[str]:
        ended: list[str] = []

        async def work(emit: Any) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.shield(asyncio.sleep(0.05))
                ended.append("work")

        async def read() -> None:
            async for _ in stream(work):
                pass

        reader = asyncio.ensure_future(read())
        for _ in range(3):
            await asyncio.sleep(0.01)
            reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        return ended

    assert asyncio.run(main()) == ["work"]


def test_work_that_is_broken_off_from_within_does_not_look_done() -> None:
    async def main() -> None:
        async def work(emit: Any) -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await anext(stream(work))

    asyncio.run(main())


def test_those_who_want_the_same_share_one_flight_and_its_failure() -> None:
    async def main() -> None:
        calls = 0

        async def work(tell: Any) -> None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0)
            raise OSError("no")

        async with asyncio.TaskGroup() as group:
            flights = Flights(group.create_task)
            results = await asyncio.gather(*(flights.join("k", work) for _ in range(5)), return_exceptions=True)
        assert calls == 1
        assert [str(result) for result in results] == ["no"] * 5

    asyncio.run(main())


def test_a_layer_that_an_image_has_twice_is_told_of_once() -> None:
    told: list[Record] = []
    emit = once(told.append)
    for record in [status("Pull complete", "a"), moving("Downloading", "a", 1, 2), status("Pull complete", "b")] * 2:
        emit(record)
    assert [(record["status"], record["id"]) for record in told] == [
        ("Pull complete", "a"),
        ("Downloading", "a"),
        ("Pull complete", "b"),
        ("Downloading", "a"),
    ]
