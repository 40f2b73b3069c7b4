"""Reading logs: framing, tails, times, rotation, torn ends."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.containers.logs import LogQuery, LogReader, padded, stamp


def line(number: int, stream: str = "stdout", **more: object) -> str:
    return json.dumps({"log": f"line {number}\n", "stream": stream, "time": f"2026-11-21T00:00:{number % 60:02d}.5Z", **more}) + "\n"


def frames(data: bytes) -> list[tuple[int, str]]:
    found = []
    while data:
        kind, size = struct.unpack(">BxxxI", data[:8])
        found.append((kind, data[8 : 8 + size].decode()))
        data = data[8 + size :]
    return found


def read(path: Path, **query: object) -> bytes:
    with LogReader(str(path), LogQuery(**query)) as reader:  # type: ignore[arg-type]
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
    path.write_text(line(1, attrs={"b": "2", "a": "1"}))
    assert read(path, timestamps=True, details=True, multiplexed=False) == b"2026-11-21T00:00:01.500000000Z a=1,b=2 line 1\n"


def test_a_followed_log_goes_on_in_the_new_file_after_a_rotation(log: Path) -> None:
    with LogReader(str(log), LogQuery(multiplexed=False)) as reader:
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


def test_trimmed_times_are_padded() -> None:
    assert padded("2026-11-21T00:00:00Z") == "2026-11-21T00:00:00.000000000"
    assert padded("2026-11-21T00:00:00.25Z") == "2026-11-21T00:00:00.250000000"
