"""Entries in their files: found from the end and by time, and never invented."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.containers.log_entries import Format, JsonEntries, LocalEntries, padded, stamp
from wherry.runtime.jsonlog import JsonLog
from wherry.runtime.locallog import LocalLog
from wherry.runtime.logfile import Limits

START = 1_795_219_200_000_000_000
SECOND = 1_000_000_000
KINDS = {"json-file": (JsonLog, JsonEntries()), "local": (LocalLog, LocalEntries())}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, path: Path, lines: int, width: int = 0) -> Format:
    """A log of numbered lines, one a second."""
    log = KINDS[kind][0](str(path), Limits())
    for number in range(lines):
        log.write("stderr" if number % 3 == 2 else "stdout", b"line %d%s\n" % (number, b"." * width), START + number * SECOND)
    log.finish(START)
    return KINDS[kind][1]


class Opened:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.fd).st_size

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def texts(form: Format, data: bytes) -> Iterator[str]:
    return (body.decode().strip(".\n") for _, body in form.bodies(data))


def test_streams_and_texts_come_back(kind: str, tmp_path: Path) -> None:
    form = make(kind, tmp_path / "log", 4)
    data = (tmp_path / "log").read_bytes()
    assert form.bodies(data) == [(2 if number == 2 else 1, b"line %d\n" % number) for number in range(4)]
    assert [entry.at for entry in form.decoded(data)] == [stamp(START + number * SECOND) for number in range(4)]
    assert form.ends(data) == (len(data), 4, False)
    assert form.ends(data[:-1])[1] == 3
    assert form.ends(data, 2)[1] == 2


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\n", b"\n\n", b"x" * 16384, b"y" * 33000])), max_size=8))
def test_what_was_written_is_read_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, kind: str, pieces: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = KINDS[kind][0](str(path), Limits())
    for piece in pieces:
        log.write("stdout", piece, START)
    log.finish(START)
    data = path.read_bytes()
    form = KINDS[kind][1]
    assert form.ends(data)[0] == len(data)
    whole = b"".join(body for _, body in form.bodies(data))
    assert whole == b"".join(entry.body for entry in form.decoded(data))
    written = b"".join(pieces)
    assert whole == (written if kind == "local" else written.decode(errors="replace").encode()) or b"\xef\xbf\xbd" in whole


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, 2000), count=st.integers(0, 30))
def test_cut_anywhere_it_yields_all_whole_entries_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: int, count: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    form = make(kind, path, 24)
    os.truncate(path, min(cut, path.stat().st_size))
    data = path.read_bytes()
    length, number, damaged = form.ends(data)
    assert not damaged
    assert list(texts(form, data[:length])) == [f"line {index}" for index in range(number)]
    assert number == 24 or len(data) < 24 * 80
    with Opened(path) as file:
        tail = form.tail(file.fd, file.size, count)
    if tail is None:
        assert kind == "local"
        assert length < len(data)
    else:
        assert tail[1] == min(count, number)
        assert list(texts(form, data[tail[0] : length])) == [f"line {index}" for index in range(number - tail[1], number)]


def test_the_tail_of_many_blocks_is_found(kind: str, tmp_path: Path) -> None:
    form = make(kind, tmp_path / "log", 3000, width=300)
    data = (tmp_path / "log").read_bytes()
    with Opened(tmp_path / "log") as file:
        for count in (1, 2999, 3000, 9000):
            found = form.tail(file.fd, file.size, count)
            assert found is not None
            assert found[1] == min(count, 3000)
            assert next(texts(form, data[found[0] :])) == f"line {max(0, 3000 - count)}"


def test_a_time_is_found_not_far_before_its_first_entry(kind: str, tmp_path: Path) -> None:
    form = make(kind, tmp_path / "log", 3000, width=300)
    data = (tmp_path / "log").read_bytes()
    with Opened(tmp_path / "log") as file:
        for wanted in (0, 1, 1500, 2999):
            position = form.since(file.fd, file.size, stamp(START + wanted * SECOND))
            numbers = [int(text.split()[1]) for text in texts(form, data[position:])]
            assert numbers[0] <= wanted
            assert wanted - numbers[0] < 400
        if kind == "local":
            assert form.since(file.fd, file.size, stamp(START + 3000 * SECOND)) == file.size


def test_a_foreign_line_is_passed_over_and_times_are_found_around_it(tmp_path: Path) -> None:
    form = make("json-file", tmp_path / "log", 2000, width=200)
    data = (tmp_path / "log").read_bytes()
    middle = data.index(b"\n", len(data) // 2) + 1
    data = data[:middle] + b"garbage\n" * 3 + data[middle:]
    (tmp_path / "log").write_bytes(data)
    with Opened(tmp_path / "log") as file:
        position = form.since(file.fd, file.size, stamp(START + 1500 * SECOND))
    assert 1100 < int(next(texts(form, data[position:])).split()[1]) <= 1500
    assert len(form.bodies(data)) == 2000


def test_a_message_that_is_none_is_no_entry() -> None:
    form = LocalEntries()
    for body in (b"\xff", b"\x0a\x50short", b"\x0d\0\0\0\0", b"\x10" + b"\xff" * 12):
        frame = len(body).to_bytes(4, "big")
        assert form.bodies(frame + body + frame) == []
        assert list(form.decoded(frame + body + frame)) == []


def test_trimmed_times_are_padded() -> None:
    assert padded("2026-11-21T00:00:00Z") == "2026-11-21T00:00:00.000000000"
    assert padded("2026-11-21T00:00:00.25Z") == "2026-11-21T00:00:00.250000000"
