"""Rotation, packing, and what a crash or a full disk left torn."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
from pathlib import Path

import pytest
from tests import forked

from wherry.runtime.eventloop import EventLoop
from wherry.runtime.jsonlog import LAYOUT, JsonLog
from wherry.runtime.logfile import Limits, LogFile

NOW = 1_795_233_652_965_203_940


def fill(path: Path, count: int, limits: Limits, **options: object) -> None:
    log = JsonLog(str(path), limits, **options)  # type: ignore[arg-type]
    for number in range(count):
        log.write("stdout", b"%03d\n" % number, NOW)
    log.finish(NOW)


def texts(data: bytes) -> list[str]:
    return [json.loads(line)["log"].strip() for line in data.splitlines()]


def test_a_file_is_left_when_it_has_reached_the_limit_and_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path, 100, Limits(max_size_bytes=500, max_files=3))
    files = [path.with_name("log.2"), path.with_name("log.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    line = len('{"log":"000\\n","stream":"stdout","time":"2026-11-21T04:00:52.96520394Z"}\n')
    assert [file.stat().st_size for file in files[:2]] == [-(-500 // line) * line] * 2
    assert [text for file in files for text in texts(file.read_bytes())] == [f"{number:03d}" for number in range(100)][-16:]


def test_one_big_write_fills_several_files(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "log"), Limits(max_size_bytes=1000, max_files=9))
    log.write("stdout", b"".join(b"%03d\n" % number for number in range(50)), NOW)
    log.finish(NOW)
    assert [len(texts((tmp_path / f"log{suffix}").read_bytes())) for suffix in (".3", ".2", ".1", "")] == [14, 14, 14, 8]


def test_with_one_file_the_old_one_goes(tmp_path: Path) -> None:
    fill(tmp_path / "log", 20, Limits(max_size_bytes=500, max_files=1))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert texts((tmp_path / "log").read_bytes()) == [f"{number:03d}" for number in range(14, 20)]


def test_rotated_files_are_packed_by_a_child_and_note_their_last_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    loop = EventLoop()
    log = JsonLog(str(path), Limits(max_size_bytes=500, max_files=3, compress=True), loop=loop)
    for number in range(21):
        log.write("stdout", b"%03d\n" % number, NOW)
        if number in (7, 14):
            try:
                inode = path.with_name("log.1").stat().st_ino
            except FileNotFoundError:  # the child was quicker
                inode = -1
            loop.turn(20)
            assert path.with_name("log.1.gz").exists()
    log.finish(NOW)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]
    packed = path.with_name("log.1.gz").read_bytes()
    assert texts(gzip.decompress(packed)) == [f"{number:03d}" for number in range(7, 14)]
    (size,) = struct.unpack("<H", packed[10:12])
    noted = json.loads(packed[12 : 12 + size])
    assert noted["lastTime"] == "2026-11-21T04:00:52.96520394Z"
    assert inode in (-1, noted["inode"])


def test_a_packing_that_is_not_finished_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    block = b"".join(os.urandom(500).hex().encode() + b"\n" for _ in range(60))
    log = JsonLog(str(path), Limits(max_size_bytes=4_000_000, max_files=3, compress=True))
    while not path.with_name("log.1").exists():
        log.write("stdout", block, NOW)
    log.finish(NOW)
    assert sorted(os.listdir(tmp_path)) in (["log", "log.1"], ["log", "log.1.gz"])  # never both, never half of one


def test_the_next_rotation_takes_packed_and_plain_files_along(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for name, text in (("log.1", "plain"), ("log.2.gz", "packed"), ("log.3.gz", "oldest")):
        path.with_name(name).write_text(text)
    fill(path, 8, Limits(max_size_bytes=500, max_files=4))
    assert path.with_name("log.2").read_text() == "plain"
    assert path.with_name("log.3.gz").read_text() == "packed"
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2", "log.3.gz"]


def test_a_monitor_that_died_while_it_rotated_leaves_a_gap_that_moves_along(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for name in ("log.1.gz", "log.2.gz", "log.4", "log.5.gz"):
        path.with_name(name).write_text(name)
    fill(path, 8, Limits(max_size_bytes=500, max_files=9))
    left = {name.name: name.read_text() for name in tmp_path.iterdir() if name.name not in ("log", "log.1")}
    assert left == {"log.2.gz": "log.1.gz", "log.3.gz": "log.2.gz", "log.5": "log.4", "log.6.gz": "log.5.gz"}


@pytest.mark.parametrize("torn", [b'{"log":"ha', b"x", b'{"log":"half a line that is longer than a block' + b"y" * 70000])
def test_what_is_torn_at_the_end_is_cut_off_before_more_is_written(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    fill(path, 2, Limits())
    with path.open("ab") as file:
        file.write(torn)
    fill(path, 1, Limits())
    assert texts(path.read_bytes()) == ["000", "001", "000"]


def test_a_write_that_the_disk_cuts_short_leaves_no_half_entry(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), LAYOUT, Limits())
    log.append(b'{"log":"first"}\n', NOW)

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
        log.append(b'{"log":"' + b"x" * 100 + b'"}\n', NOW)

    assert forked.exit_code(write) == 0  # the limit is a process's own
    log.close()
    assert path.read_bytes() == b'{"log":"first"}\n'
