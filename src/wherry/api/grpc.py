"""Just enough of gRPC to say no: BuildKit's clients speak HTTP/2 on a connection they took over, and show a gRPC error's text to people.

Refused any other way, they would start a builder of their own in a container, whose images never reach this engine.
Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK), gRPC over HTTP/2.
"""

from __future__ import annotations

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
UNIMPLEMENTED = 12
MAX_FRAME = 16384
PATIENCE_S = 30.0

_HEADERS, _SETTINGS, _PING = 1, 4, 6
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_FRAME = struct.Struct(">BHBBI")  # length in three bytes, type, flags, stream


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def refusal(stream: int, message: str) -> bytes:
    """The whole answer to a call: status 200, and trailers that say why nothing follows."""
    fields = (("content-type", "application/grpc"), ("grpc-status", str(UNIMPLEMENTED)), ("grpc-message", message))
    block = b"\x88" + b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)
    return frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, block)


def _string(text: str) -> bytes:
    """A literal of HPACK: its length in a prefix of seven bits, without Huffman's code."""
    data = text.encode("ascii", "replace")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = len(data) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    return bytes(length) + data


async def refuse_calls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: str) -> None:
    """Answer every call of one client with ``message`` until it goes, is silent for long, or says what is not HTTP/2."""
    writer.write(frame(_SETTINGS, 0, 0))
    try:
        async with asyncio.timeout(PATIENCE_S):
            if await reader.readexactly(len(PREFACE)) != PREFACE:
                return
            while True:
                high, low, kind, flags, stream = _FRAME.unpack(await reader.readexactly(_FRAME.size))
                if (length := high << 16 | low) > MAX_FRAME:
                    return
                payload = await reader.readexactly(length)
                if kind in (_SETTINGS, _PING) and not flags & _ACK:
                    writer.write(frame(kind, _ACK, 0, payload if kind == _PING else b""))
                elif kind == _HEADERS:
                    writer.write(refusal(stream, message))
                await writer.drain()
    except (TimeoutError, EOFError, ConnectionError):
        return
