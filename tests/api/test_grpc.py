"""The refusal of BuildKit's protocol, byte for byte as an HTTP/2 client reads it."""

from __future__ import annotations

import asyncio
import struct

from wherry.api.grpc import PREFACE, frame, refusal, refuse_calls


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[3:9])
        found.append((kind, flags, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def conversation(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    """What the client reads when it sends ``sent`` and ends."""

    async def talk() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await refuse_calls(reader, writer, "no")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            writer.write_eof()
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
        return data

    return frames(asyncio.run(talk()))


def test_every_call_is_answered_with_trailers_only() -> None:
    calls = frame(4, 0, 0) + frame(1, 4, 1, b"anything") + frame(0, 1, 1, b"body") + frame(1, 5, 3, b"anything")
    settings, acknowledged, first, second = conversation(PREFACE + calls)
    assert settings == (4, 0, 0, b"")
    assert acknowledged == (4, 1, 0, b"")
    assert first == (1, 5, 1, refusal(1, "no")[9:])
    assert (second[0], second[2]) == (1, 3)


def test_a_ping_comes_back() -> None:
    assert conversation(PREFACE + frame(6, 0, 0, b"12345678"))[1:] == [(6, 1, 0, b"12345678")]


def test_what_is_not_http2_is_left() -> None:
    assert conversation(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == [(4, 0, 0, b"")]
    assert conversation(PREFACE + b"\xff\xff\xff" + bytes(6)) == [(4, 0, 0, b"")]


def test_the_refusal_is_a_grpc_status_with_its_message() -> None:
    block = refusal(1, "x" * 300)[9:]
    assert block.startswith(b"\x88")
    assert b"\x0bgrpc-status\x0212" in block
    assert block.endswith(b"\x0cgrpc-message" + bytes([127, (300 - 127) & 127 | 128, (300 - 127) >> 7]) + b"x" * 300)
