"""Reading logs: framing, tails, times, rotation, torn ends."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.containers.log_entries import stamp
from wherry.containers.logs import FORMATS, LogQuery, LogReader
from wherry.runtime.jsonlog import JsonLog
from wherry.runtime.locallog import LocalLog, entry_ends
from wherry.runtime.logfile import Limits


def line(number: int, stream: str = "stdout", **more: object) -> str:
    return json.dumps({"log": f"line {number}\n", "stream": stream, "time": f"2026-11-21T00:00:{number % 60:02d}.5Z", **more}) + "\n"


def frames(data: bytes) -> list[tuple[int, str]]:
    found = []
    while data:
        kind, size = struct.unpack(">BxxxI", data[:8])
        found.append((kind, data[8 : 8 + size].decode()))
        data = data[8 + size :]
    return found


def reader_of(path: Path, driver: str = "json-file", **query: object) -> LogReader:
    return LogReader(str(path), LogQuery(**query), FORMATS[driver])  # type: ignore[arg-type]


def read(path: Path, driver: str = "json-file", **query: object) -> bytes:
    with reader_of(path, driver, **query) as reader:
        return b"".join(reader.read_all())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "x-json.log"
    path.write_text("".join(line(number, "stderr" if number % 2 else "stdout") for number in range(6)))
    return path


def test_each_line_is_a_frame_of_its_stream(log: Path) -> None:
    assert frames(read(log)) == [(2 if number % 2 else 1, f"line {number}\n") for number in range(6)]
    assert frames(read(log, stderr=False)) == [(1, f"line {number}\n") for number in (0, 2, 4)]


def test_a_terminal_gets_raw_bytes(log: Path) -> None:
    assert read(log, multiplexed=False).decode() == "".join(f"line {number}\n" for number in range(6))


def test_tail_counts_from_the_end_across_rotated_files(log: Path) -> None:
    older = log.with_name(log.name + ".1")
    older.write_text("".join(line(number) for number in range(10, 13)))
    assert [text for _, text in frames(read(log, tail=7))] == ["line 12\n", *[f"line {number}\n" for number in range(6)]]
    assert read(log, tail=0) == b""
    assert len(frames(read(log, tail=100))) == 9


def test_since_and_until_bound_the_lines_and_end_the_reading(log: Path) -> None:
    second = 1_000_000_000
    base = 1_795_219_200 * second  # 2026-11-21T00:00:00Z
    assert stamp(base).startswith("2026-11-21T00:00:00")
    texts = [text for _, text in frames(read(log, since_ns=base + 2 * second, until_ns=base + 4 * second))]
    assert texts == ["line 2\n", "line 3\n"]


def test_timestamps_have_nine_digits_and_details_come_before_the_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(line(1, attrs={"b": "x,y z", "a": "1"}))
    assert read(path, timestamps=True, details=True, multiplexed=False) == b"2026-11-21T00:00:01.500000000Z a=1,b=x%2Cy+z line 1\n"


def test_a_followed_log_goes_on_in_the_new_file_after_a_rotation(log: Path) -> None:
    with reader_of(log, multiplexed=False) as reader:
        assert reader.read().count(b"\n") == 6
        assert reader.read() == b""
        log.rename(log.with_name(log.name + ".1"))
        log.write_text(line(7))
        assert reader.read() == b"line 7\n"
        with log.open("a") as more:
            more.write(line(8))
        assert reader.read() == b"line 8\n"


@settings(max_examples=60)
@given(cut=st.integers(0, 600))
def test_a_torn_tail_yields_every_whole_line_and_invents_none(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "log"
    whole = "".join(line(number) for number in range(6)).encode()
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    assert [text for _, text in frames(read(path))] == [f"line {number}\n" for number in range(complete)]


def test_a_foreign_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(line(1) + "garbage\n" + line(2))
    assert read(path, multiplexed=False) == b"line 1\nline 2\n"


KINDS = {"json-file": JsonLog, "local": LocalLog}
START = 1_795_219_200_000_000_000
SECOND = 1_000_000_000


class Writer:
    """A container's log as its monitor writes it: numbered lines, one a second."""

    def __init__(self, path: Path, driver: str, **limits: object) -> None:
        self.log = KINDS[driver](str(path), Limits(**limits))  # type: ignore[arg-type]
        self.count = 0

    def write(self, count: int) -> None:
        for _ in range(count):
            self.log.write("stdout", b"%d\n" % self.count, START + self.count * SECOND)
            self.count += 1

    def settle(self) -> None:
        """Wait for the packing of a rotated file."""
        packing = self.log._file._packing
        if packing is not None:
            packing.finish()


def numbers(data: bytes) -> list[int]:
    return [int(line.split()[-1]) for line in data.splitlines()]


@pytest.fixture(params=[(driver, compress) for driver in KINDS for compress in (False, True)], ids=lambda param: f"{param[0]}-{param[1]}")
def rotated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, Writer]]:
    """Lines 60 and on of 400 are left, in five files."""
    driver, compress = request.param
    path = tmp_path / "log"
    writer = Writer(path, driver, max_size_bytes=5000 if driver == "json-file" else 2000, max_files=5, compress=compress)
    writer.write(400)
    writer.settle()
    assert path.with_name("log.4.gz" if compress else "log.4").exists()
    yield driver, path, writer
    writer.log.finish(START)


def test_rotated_files_are_read_as_one_packed_or_not(rotated: tuple[str, Path, Writer]) -> None:
    driver, path, _ = rotated
    everything = numbers(read(path, driver, multiplexed=False))
    assert everything == list(range(everything[0], 400))
    assert 0 < everything[0] < 200
    for tail in (0, 1, 50, 120, len(everything), 1000):
        assert numbers(read(path, driver, multiplexed=False, tail=tail)) == everything[len(everything) - min(tail, len(everything)) :]
    for first, last in ((390, 0), (250, 0), (0, 300), (210, 330), (399, 0), (400, 0)):
        bounds = {"since_ns": START + first * SECOND, "until_ns": START + last * SECOND if last else 0}
        wanted = [number for number in everything if first <= number <= (last or 400)]
        assert numbers(read(path, driver, multiplexed=False, **bounds)) == wanted


def test_a_follower_loses_no_line_however_far_the_writer_rotates_ahead(rotated: tuple[str, Path, Writer]) -> None:
    driver, path, writer = rotated
    with reader_of(path, driver, multiplexed=False, tail=5) as reader:
        assert numbers(b"".join(reader.read_all())) == [395, 396, 397, 398, 399]
        assert reader.read() == b""
        for count in (3, 60, 130, 200):  # within the file, over one rotation, two, three
            before = writer.count
            writer.write(count)
            writer.settle()
            assert numbers(b"".join(reader.read_all())) == list(range(before, before + count))
        before = writer.count
        writer.write(2000)  # the file it was in is gone: what there is goes on from there
        writer.settle()
        seen = numbers(b"".join(reader.read_all()))
        assert seen == sorted(set(seen))
        assert seen[0] == before
        assert seen[-250:] == list(range(before + 1750, before + 2000))


def test_a_file_found_plain_and_packed_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = Writer(path, "json-file", max_size_bytes=3000, max_files=3)
    writer.write(60)
    plain = path.with_name("log.1").read_bytes()
    path.with_name("log.1.gz").write_bytes(gzip.compress(plain))  # the packing's last step is yet to come
    assert numbers(read(path, multiplexed=False)) == list(range(60))
    path.with_name("log.1").unlink()
    assert numbers(read(path, multiplexed=False, tail=45)) == list(range(15, 60))  # one without Docker's header
    path.with_name("log.1.gz").write_bytes(gzip.compress(plain)[:-40])
    seen = numbers(read(path, multiplexed=False))
    assert seen[-3:] == [57, 58, 59]
    assert set(seen) < set(range(60))


def test_files_behind_a_missing_number_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = Writer(path, "json-file", max_size_bytes=1000, max_files=9)
    writer.write(60)
    path.with_name("log.3").rename(path.with_name("log.8"))
    path.with_name("log.2").rename(path.with_name("log.7"))
    path.with_name("log.1").rename(path.with_name("log.6"))
    seen = numbers(read(path, multiplexed=False))
    assert sorted(seen) == list(range(60))
    assert seen[-1] == 59


def test_damage_ends_its_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = Writer(path, "local", max_size_bytes=1200, max_files=3)
    writer.write(60)
    older = bytearray(path.with_name("log.1").read_bytes())
    cut = entry_ends(older)[0][20]
    older[cut : cut + 2] = b"\xff\xff"
    path.with_name("log.1").write_bytes(older)
    seen = numbers(read(path, "local", multiplexed=False))
    assert seen == sorted(set(seen))
    assert seen[-1] == 59
    assert 60 - seen[0] > len(seen) > 10


def test_a_reader_that_was_closed_reads_no_more(log: Path) -> None:
    reader = reader_of(log)
    assert reader.read()
    reader.close()
    assert reader.read() == b""
