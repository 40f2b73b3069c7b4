"""Docker's local format, byte for byte."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.runtime.locallog import LINE_LIMIT, LocalLog, entry_ends
from wherry.runtime.logfile import Limits

# A log of Docker 28.5.2: `echo out; echo err >&2; echo; echo`, and the last entry of one that ended without a newline.
OUT = bytes.fromhex("000000170a067374646f757410a7888fc9dad691f6181a036f757400000017")
ERR = bytes.fromhex("000000170a0673746465727210a8d1d2cedad691f6181a0365727200000017")
EMPTY = bytes.fromhex("000000120a067374646f757410f7a3c5c8fee091f61800000012")
UNFINISHED = bytes.fromhex("000000600a067374646f757410db839994dbd691f6181a046e6f6e6c20012a441240") + b"%s" + bytes.fromhex("180100000060")


def nanoseconds(entry: bytes) -> int:
    value = 0
    for index, byte in enumerate(entry[13:22]):
        value |= (byte & 0x7F) << 7 * index
    return value


def written(directory: Path, chunks: list[tuple[str, bytes, int]]) -> bytes:
    path = directory / "container.log"
    path.unlink(missing_ok=True)
    log = LocalLog(str(path), Limits())
    for stream, data, now_ns in chunks:
        log.write(stream, data, now_ns)
    log.finish(1_795_880_897_617_612_000)
    return path.read_bytes()


def test_entries_are_those_of_docker(tmp_path: Path) -> None:
    chunks = [("stdout", b"out\n", nanoseconds(OUT)), ("stderr", b"err\n", nanoseconds(ERR)), ("stdout", b"\n", nanoseconds(EMPTY))]
    assert written(tmp_path, chunks) == OUT + ERR + EMPTY


def test_a_last_line_without_newline_is_partial(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    log = LocalLog(str(path), Limits())
    log.write("stdout", b"nonl", 1)
    log.finish(nanoseconds(UNFINISHED))
    data = path.read_bytes()
    assert len(data) == 104
    assert data == UNFINISHED % data[34:98]


def test_long_lines_become_partial_entries_of_exactly_16_kib(tmp_path: Path) -> None:
    data = written(tmp_path, [("stdout", b"x" * (2 * LINE_LIMIT) + b"\n" + b"y" * (LINE_LIMIT - 1) + b"\n", 1 << 60)])
    ends, damaged = entry_ends(data)
    assert not damaged
    entries = [data[start + 4 : end - 4] for start, end in zip([0, *ends], ends, strict=False)]
    first, second, third, fourth = entries
    ident = first[-66:-2]
    assert first.endswith(b"x" * 20 + b"\x20\x01\x2a\x44\x12\x40" + ident + b"\x18\x01")
    assert second.endswith(b"x" * 20 + b"\x20\x01\x2a\x44\x12\x40" + ident + b"\x18\x02")
    assert third[18:] == b"\x20\x01\x2a\x46\x08\x01\x12\x40" + ident + b"\x18\x03"
    assert first.count(b"x") == second.count(b"x") == LINE_LIMIT
    assert fourth.endswith(b"y" * 20)


def test_a_line_that_goes_on_over_reads_keeps_its_id(tmp_path: Path) -> None:
    data = written(tmp_path, [("stdout", b"x" * LINE_LIMIT, 1 << 60), ("stderr", b"e\n", 1 << 60), ("stdout", b"tail\nnext\n", 1 << 60)])
    assert len(entry_ends(data)[0]) == 4
    ident = data[4 + 18 + 4 + LINE_LIMIT + 6 :][:64]
    assert data.count(ident) == 2


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 500), more=st.booleans())
def test_a_torn_file_is_cut_back_to_whole_entries_before_more_is_written(tmp_path_factory, cut: int, more: bool) -> None:
    path = tmp_path_factory.mktemp("log") / "container.log"
    whole = b"".join(
        b"%s" % (struct.pack(">I", 20 + n) + b"\x0a\x06stdout\x10\x01\x1a" + bytes((9 + n,)) + b"l" * (9 + n) + struct.pack(">I", 20 + n))
        for n in range(12)
    )
    path.write_bytes(whole[:cut])
    log = LocalLog(str(path), Limits())
    log.write("stdout", b"new\n" if more else b"", 1 << 60)
    log.finish(1)
    ends = [0, *entry_ends(whole)[0]]
    kept = max(end for end in ends if end <= cut)
    data = path.read_bytes()
    assert data[:kept] == whole[:kept]
    assert len(entry_ends(data)[0]) == ends.index(kept) + more


def test_damage_is_told_from_what_is_not_there_yet() -> None:
    assert entry_ends(OUT + ERR) == ([len(OUT), len(OUT + ERR)], False)
    assert entry_ends(OUT + ERR[:-1]) == ([len(OUT)], False)
    assert entry_ends(OUT + ERR[:-1] + b"\x18") == ([len(OUT)], True)
    assert entry_ends(OUT + b"\xff\xff\xff\xff") == ([len(OUT)], True)
