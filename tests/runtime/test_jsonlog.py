"""Docker's json-file format, byte for byte."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.runtime.jsonlog import LINE_LIMIT, JsonLog, escape
from wherry.runtime.logfile import Limits
from wherry.runtime.timestamps import rfc3339

NOW = 1_795_233_652_965_203_940


def logged(directory, chunks, **options):
    path = str(directory / f"log{os.urandom(4).hex()}")
    log = JsonLog(path, Limits(), **options)
    for stream, data in chunks:
        log.write(stream, data, NOW)
    log.finish(NOW)
    with open(path, "rb") as file:
        return path, file.read().splitlines()


def test_a_line_looks_as_docker_writes_it(tmp_path):
    _, lines = logged(tmp_path, [("stdout", b"out\n"), ("stderr", b'a"\\<b>&\t\x1b\r\xff\xc3\xa9\n')])
    assert lines == [
        b'{"log":"out\\n","stream":"stdout","time":"2026-11-21T04:00:52.96520394Z"}',
        b'{"log":"a\\"\\\\\\u003cb\\u003e\\u0026\\u0009\\u001b\\r\\ufffd\xc3\xa9\\n","stream":"stderr","time":"2026-11-21T04:00:52.96520394Z"}',
    ]


def test_a_literal_backslash_n_is_no_end_of_line(tmp_path):
    _, lines = logged(tmp_path, [("stdout", b"a\\nb\nc\n")])
    assert [json.loads(line)["log"] for line in lines] == ["a\\nb\n", "c\n"]


def test_times_lose_their_last_zeros():
    assert rfc3339(1_000_000_000_000_000_000) == b"2001-09-09T01:46:40Z"
    assert rfc3339(1_000_000_000_100_000_000) == b"2001-09-09T01:46:40.1Z"


def test_attributes_stand_between_stream_and_time(tmp_path):
    _, lines = logged(tmp_path, [("stdout", b"x\n")], attributes={"k": "v", "b<": '"'})
    assert b'"stream":"stdout","attrs":{"b\\u003c":"\\"","k":"v"},"time":' in lines[0]


def test_long_lines_become_pieces_of_16_kib(tmp_path):
    _, lines = logged(tmp_path, [("stdout", b"x" * 20000 + b"\nshort\n"), ("stdout", b"y" * 40000), ("stdout", b"\n")])
    texts = [json.loads(line)["log"] for line in lines]
    assert [len(text) for text in texts] == [LINE_LIMIT, 20001 - LINE_LIMIT, 6, LINE_LIMIT, LINE_LIMIT, 40001 - 2 * LINE_LIMIT]


@pytest.mark.parametrize(("character", "rest"), [("x", 0), ("é", 0), ("é", 1), ("€", 1), ("€", 2), ("😀", 1), ("😀", 2), ("😀", 3)])
def test_a_piece_that_came_whole_is_cut_before_a_character_only_where_that_goes_on(tmp_path, character, rest):
    size = len(character.encode())
    start = b"." * ((LINE_LIMIT - rest) % size) + character.encode() * ((LINE_LIMIT - rest) // size)
    data = start + character.encode()[:rest]
    assert len(data) == LINE_LIMIT
    _, lines = logged(tmp_path, [("stdout", data), ("stdout", character.encode()[rest:] + b"\n")])
    assert [json.loads(line)["log"].encode() for line in lines] == [start, character.encode() + b"\n"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"\n", b"\\n", b"x" * 9000, b"\n" * 30, "é\u2028".encode() * 3000]))))
def test_no_byte_is_lost_whatever_the_pieces(tmp_path_factory, chunks):
    _, lines = logged(tmp_path_factory.mktemp("log"), [("stdout", chunk) for chunk in chunks])
    texts = [json.loads(line)["log"] for line in lines]
    whole = b"".join(chunks)
    expected = json.loads(b'"' + escape(whole) + b'"')
    assert "".join(texts) == expected
    assert all("\n" not in text[:-1] for text in texts)
