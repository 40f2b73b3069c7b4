"""Reading a file that another thread still writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wherry.images.arrivals import Abandoned, Arrival, ArrivingFile, Broken


class Writing:
    def __init__(self, path: Path) -> None:
        self.arrival = Arrival()
        self.stop = threading.Event()
        self.file = path.open("wb", buffering=0)
        self._path = path

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.arrival.reach(self.file.tell())

    def reader(self) -> ArrivingFile:
        _, turn = self.arrival.wait(0, None, self.stop)
        return ArrivingFile(os.open(self._path, os.O_RDONLY), self.arrival, turn, self.stop)


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    made = Writing(tmp_path / "blob")
    yield made
    made.file.close()


def _all(file: ArrivingFile) -> bytes:
    with file:
        return b"".join(iter(lambda: file.read(1000), b""))


def test_a_reader_gets_every_byte_and_the_end_only_when_all_is_right(writing: Writing) -> None:
    pieces = [bytes([number]) * 700 for number in range(50)]
    writing.write(pieces[0])
    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(_all, writing.reader()) for _ in range(2)]
        for piece in pieces[1:]:
            writing.write(piece)
        assert not any(one.done() for one in reading)
        writing.arrival.finish()
        assert [one.result(10) for one in reading] == [b"".join(pieces)] * 2


def test_a_reader_is_told_when_the_writer_gives_up_and_the_next_one_waits(writing: Writing) -> None:
    writing.write(b"wrong")
    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(_all, writing.reader())
        writing.arrival.fail()
        with pytest.raises(Broken):
            reading.result(10)
        waiting = threads.submit(writing.reader)
        assert not waiting.done()
        writing.arrival.reach(3)
        with waiting.result(10) as again:
            assert again.read(10) == b"wro"


def test_a_reader_that_nobody_wants_ends(writing: Writing) -> None:
    writing.write(b"some")
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(_all, writing.reader())
        writing.stop.set()
        writing.arrival.wake()
        with pytest.raises(Abandoned):
            reading.result(10)
