"""HTTP heads, chunk lines and frames, as pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.api.wire import Malformed, frame, parse_chunk_size, parse_head, response_head

GOOD = b"POST /v1.51/containers/a%20b/json?x=1%20 HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\nX-A: 1\r\nX-A:  2 "

BAD_HEADS = {
    "http 2 preface": b"PRI * HTTP/2.0",
    "http 0.9": b"GET /",
    "lower-case method": b"get / HTTP/1.1\r\nHost: d",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: d",
    "relative target": b"GET x HTTP/1.1\r\nHost: d",
    "absolute target": b"GET http://x/ HTTP/1.1\r\nHost: d",
    "control character in target": b"GET /\x01 HTTP/1.1\r\nHost: d",
    "raw utf-8 in target": "GET /é HTTP/1.1\r\nHost: d".encode(),
    "bad escape": b"GET /%zz HTTP/1.1\r\nHost: d",
    "bare line feed": b"GET / HTTP/1.1\nHost: d",
    "bare line feed in headers": b"GET / HTTP/1.1\r\nHost: d\nX: y",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: d\rX: y",
    "no host": b"GET / HTTP/1.1\r\nX: y",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b",
    "folded header": b"GET / HTTP/1.1\r\nHost: d\r\nX: a\r\n b",
    "blank before colon": b"GET / HTTP/1.1\r\nHost: d\r\nX : a",
    "no colon": b"GET / HTTP/1.1\r\nHost: d\r\nX",
    "empty name": b"GET / HTTP/1.1\r\nHost: d\r\n: a",
    "null in value": b"GET / HTTP/1.1\r\nHost: d\r\nX: a\0b",
    "length and coding": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    "coding and length": b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
    "two lengths": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 1",
    "list of lengths": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 1, 1",
    "negative length": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: -1",
    "signed length": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: +1",
    "hex length": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 0x1",
    "foreign digits": "POST / HTTP/1.1\r\nHost: d\r\nContent-Length: ١".encode(),
    "empty length": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: ",
    "huge length": b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999999999999",
    "unknown coding": b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip, chunked",
    "two codings": b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "disguised coding": b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: \x0bchunked",
    "coding in http 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
    "too many headers": b"GET / HTTP/1.1\r\nHost: d" + b"\r\nA: b" * 200,
}


def test_a_head_is_read_with_its_path_decoded_and_its_query_as_it_came() -> None:
    head = parse_head(GOOD)
    assert (head.method, head.path, head.query, head.length) == ("POST", "/v1.51/containers/a b/json", "x=1%20", 12)
    assert head.headers["x-a"] == "1, 2"
    assert head.keep_alive


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=BAD_HEADS)
def test_what_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_head(data)


@pytest.mark.parametrize(
    ("line", "alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: d", True),
        (b"GET / HTTP/1.1\r\nHost: d\r\nConnection: Close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive", True),
    ],
)
def test_keeping_the_connection_follows_version_and_header(line: bytes, alive: bool) -> None:
    assert parse_head(line).keep_alive is alive


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda noise: GOOD + b"\r\nX: " + noise))
def test_any_bytes_are_a_head_or_malformed(data: bytes) -> None:
    try:
        parse_head(data)
    except Malformed:
        pass


@pytest.mark.parametrize("line", [b"", b"g", b"-1", b"+1", b"0x1", b"1;a=b", b" 1", b"1 ", b"f" * 16])
def test_a_chunk_line_is_a_bare_hexadecimal_number(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_chunk_size(line)


def test_a_chunk_size_is_hexadecimal() -> None:
    assert parse_chunk_size(b"1aF") == 0x1AF


def test_a_header_value_cannot_break_out_of_its_line() -> None:
    assert response_head(200, {"Location": "/a\r\nX: b"}) == b"HTTP/1.1 200 OK\r\nLocation: /aX: b\r\n\r\n"


def test_a_frame_names_its_stream_and_its_length() -> None:
    assert frame(2, b"abc") == b"\x02\0\0\0\0\0\0\x03abc"
