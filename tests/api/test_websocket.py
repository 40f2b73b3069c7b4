"""WebSocket: handshake and frames as pure functions, and an attached program behind a real client."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api.websocket import Decoder, Opcode, Piece, Refused, Violation, frame, response_head

if TYPE_CHECKING:
    from conftest import Raw, TinyEngine

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ASKED = {"connection": "keep-alive, Upgrade", "upgrade": "WebSocket", "sec-websocket-key": KEY, "sec-websocket-version": "13"}
ATTACH = "/containers/echo/attach/ws?stream=1&stdin=1&stdout=1"


def masked(opcode: int, payload: bytes, *, first: int = 0x80, mask: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """A client's frame."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return bytes([first | opcode]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def test_the_key_of_the_standard_is_answered_as_the_standard_says() -> None:
    head = response_head(ASKED).decode().split("\r\n")
    assert head[0] == "HTTP/1.1 101 Switching Protocols"
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head


def test_the_only_protocol_a_client_names_is_agreed_on() -> None:
    assert b"\r\nSec-WebSocket-Protocol: tty\r\n" in response_head({**ASKED, "sec-websocket-protocol": "tty"})


@pytest.mark.parametrize(
    ("changed", "reason", "headers"),
    [
        ({"upgrade": "tcp"}, "not websocket protocol", {}),
        ({"connection": "close"}, "not websocket protocol", {}),
        ({"sec-websocket-key": ""}, "mismatch challenge/response", {}),
        ({"sec-websocket-version": "8"}, "missing or bad WebSocket Version", {"Sec-WebSocket-Version": "13"}),
        ({"sec-websocket-protocol": "a, b"}, "", {}),
    ],
)
def test_what_is_no_handshake_is_refused_in_dockers_words(changed: dict[str, str], reason: str, headers: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        response_head({**ASKED, **changed})
    assert (str(refused.value), refused.value.headers) == (reason, headers)


@pytest.mark.parametrize(("size", "head"), [(125, b"\x82\x7d"), (126, b"\x82\x7e\0\x7e"), (65536, b"\x82\x7f\0\0\0\0\0\x01\0\0")])
def test_a_servers_frame_has_the_shortest_length_and_no_mask(size: int, head: bytes) -> None:
    assert frame(Opcode.BINARY, b"x" * size) == head + b"x" * size


@given(st.lists(st.tuples(st.sampled_from([1, 2, 9, 10]), st.binary(max_size=125), st.binary(min_size=4, max_size=4))), st.data())
def test_frames_are_read_in_whatever_pieces_they_come(frames: list[tuple[int, bytes, bytes]], data: st.DataObject) -> None:
    wire = b"".join(masked(opcode, payload, mask=mask) for opcode, payload, mask in frames)
    decoder, found = Decoder(), list[Piece]()
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        found += decoder.feed(wire[:size])
        wire = wire[size:]
    said = b"".join(payload for opcode, payload, _ in frames if opcode < 8)
    assert b"".join(piece.payload for piece in found if piece.opcode < 8) == said
    assert [(piece.opcode, piece.payload) for piece in found if piece.opcode > 8] == [(one[0], one[1]) for one in frames if one[0] > 8]


def test_a_message_in_parts_may_have_a_ping_inside() -> None:
    wire = masked(2, b"ab", first=0) + masked(9, b"p") + masked(0, b"cd", first=0) + masked(0, b"e") + masked(8, b"\x03\xe8")
    assert [(piece.opcode.name, piece.payload) for piece in Decoder().feed(wire)] == [
        ("BINARY", b"ab"),
        ("PING", b"p"),
        ("CONTINUATION", b"cd"),
        ("CONTINUATION", b"e"),
        ("CLOSE", b"\x03\xe8"),
    ]


def test_a_large_message_comes_as_it_arrives() -> None:
    head = b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"\0\0\0\0"
    assert list(Decoder().feed(head + b"first")) == [Piece(Opcode.BINARY, b"first")]


@pytest.mark.parametrize(
    "wire",
    [
        masked(3, b"x"),
        masked(11, b"x"),
        masked(2, b"x", first=0xC0),
        b"\x82\x01x",
        masked(9, b"x", first=0),
        masked(9, b"x" * 126),
        masked(0, b"x"),
        masked(1, b"x", first=0) + masked(1, b"y"),
    ],
    ids=["data opcode", "control opcode", "extension", "no mask", "ping in parts", "long ping", "nothing goes on", "message in another"],
)
def test_what_no_client_may_send_is_a_violation(wire: bytes) -> None:
    with pytest.raises(Violation):
        list(Decoder().feed(wire))


async def talk(address: str, path: str, *said: bytes) -> tuple[list[tuple[aiohttp.WSMsgType, object]], int | None]:
    """What a real client hears that says each of ``said`` and then nothing; the code the conversation was closed with."""
    heard = []
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(address)) as session, session.ws_connect(f"http://d{path}") as client:
        for message in said:
            await client.send_bytes(message)
            answer = await client.receive(timeout=10)
            heard.append((answer.type, answer.data))
        await client.close()
        return heard, client.close_code


@pytest.mark.parametrize(
    ("version", "kind", "answer"), [("/v1.51", aiohttp.WSMsgType.BINARY, b"HELLO"), ("/v1.27", aiohttp.WSMsgType.TEXT, "HELLO")]
)
@pytest.mark.parametrize("tty", [False, True])
def test_a_real_client_talks_with_an_attached_program(
    engine: TinyEngine, address: str, version: str, kind: aiohttp.WSMsgType, answer: object, tty: bool
) -> None:
    engine.tty = tty
    heard, code = asyncio.run(talk(address, version + ATTACH, b"hello", b"HELLO"))
    assert (heard, code) == ([(kind, answer), (kind, answer)], 1000)


def test_a_megabyte_goes_through_and_comes_back(engine: TinyEngine, address: str) -> None:
    async def exchange() -> bytes:
        heard = b""
        connector = aiohttp.UnixConnector(address)
        async with aiohttp.ClientSession(connector=connector) as session, session.ws_connect("http://d" + ATTACH) as client:
            sending = asyncio.ensure_future(client.send_bytes(b"x" * (1 << 20)))
            while len(heard) < 1 << 20:
                heard += (await client.receive(timeout=10)).data
            await sending
        return heard

    assert asyncio.run(exchange()) == b"X" * (1 << 20)


def upgraded(client: Raw, path: str = ATTACH, **more: str) -> int:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Key": KEY, "Sec_WebSocket_Version": "13"}
    return client.request("GET", path, **(headers | more)).head()[0]


def test_a_ping_is_answered(client: Raw) -> None:
    assert upgraded(client) == 101
    client.send(masked(9, b"there?"))
    assert client.exactly(8) == b"\x8a\x06there?"


def test_a_violation_closes_with_its_code(client: Raw) -> None:
    assert upgraded(client) == 101
    client.send(b"\x82\x01x")
    assert client.rest() == b"\x88\x02\x03\xea"


def test_a_client_that_ends_its_input_hears_the_rest(client: Raw) -> None:
    assert upgraded(client) == 101
    client.send(masked(1, b"last") + masked(8, b""))
    assert client.rest() == b"\x82\x04LAST\x88\x02\x03\xe8"


def test_a_client_that_only_listens_and_leaves_is_let_go(client: Raw) -> None:
    assert upgraded(client, ATTACH.replace("stdin=1", "stdin=0")) == 101
    client.send(masked(8, b""))
    assert client.rest() == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(("path", "status"), [("/containers/nosuch/attach/ws?stream=1", 404), (ATTACH, 400)])
def test_what_fails_before_the_conversation_has_a_status(client: Raw, path: str, status: int) -> None:
    assert client.request("GET", path).response()[0] == status


@pytest.mark.parametrize("origin", ["http://d", "https://d"])
def test_a_page_of_this_very_host_may_open_a_websocket(client: Raw, origin: str) -> None:
    assert upgraded(client, Origin=origin) == 101


@pytest.mark.parametrize("origin", ["http://evil.example", "http://d.evil.example", "http://d:80", "http://d/", "d", "null"])
def test_no_other_page_may(client: Raw, origin: str) -> None:
    assert upgraded(client, Origin=origin) == 403


def test_a_page_of_this_very_host_may_do_nothing_else(client: Raw) -> None:
    assert client.request("GET", "/info", Origin="http://d").response()[0] == 403
