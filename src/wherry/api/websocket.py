"""WebSocket as pure functions over bytes: the handshake and frames, as a server reads and writes them.  Source: RFC 6455."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

NORMAL, PROTOCOL_ERROR = 1000, 1002  # why a connection is closed
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LARGEST_CONTROL_BYTES = 125


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Refused(Exception):
    """The handshake is not one.  The text goes into the answer's body, in Docker's words; ``headers`` beside it."""

    def __init__(self, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.headers = headers or {}


class Violation(Exception):
    """What came is no frame that a client may send."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A control frame, or some of a message's bytes as soon as they are there: messages mean nothing to a stream."""

    opcode: Opcode
    payload: bytes


def asked_for(headers: Mapping[str, str]) -> bool:
    """Whether a request's headers (names in lower case) ask for a WebSocket."""
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    return "upgrade" in options and headers.get("upgrade", "").strip().lower() == "websocket"


def response_head(headers: Mapping[str, str]) -> bytes:
    """The head that begins the conversation a request's ``headers`` ask for.  Raises Refused."""
    if not asked_for(headers):
        raise Refused("not websocket protocol")
    key = headers.get("sec-websocket-key", "")
    if not key:
        raise Refused("mismatch challenge/response")
    if headers.get("sec-websocket-version") != "13":
        raise Refused("missing or bad WebSocket Version", {"Sec-WebSocket-Version": "13"})
    protocol = headers.get("sec-websocket-protocol", "")
    if "," in protocol:
        raise Refused("")  # a choice of languages is none that is spoken here; a single one is whatever the client means by it
    accepted = base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accepted}",
        *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """One whole message of a server's."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + payload


def closing(code: int) -> bytes:
    return frame(Opcode.CLOSE, struct.pack(">H", code))


class Decoder:
    """Reads a client's frames from bytes that come in any pieces."""

    def __init__(self) -> None:
        self._buffer = b""
        self._opcode: Opcode | None = None  # of the frame whose payload comes next
        self._left = 0  # bytes of that payload
        self._mask = b""
        self._fragmented = False  # does a message go on in the next data frame?

    def feed(self, data: bytes) -> Iterator[Piece]:
        """What ``data`` completes; empty payloads only of control frames.  Raises Violation."""
        self._buffer += data
        while self._opcode is not None or self._read_head():
            piece = self._read_payload()
            if piece is None:
                return
            if piece.payload or piece.opcode >= Opcode.CLOSE:
                yield piece

    def _read_head(self) -> bool:
        """Take the next frame's head; False: more bytes are needed."""
        if len(self._buffer) < 2:
            return False
        first, second = self._buffer[:2]
        opcode = self._check(first, second)
        size, width = second & 0x7F, {126: 2, 127: 8}.get(second & 0x7F, 0)
        end = 2 + width + 4
        if len(self._buffer) < end:
            return False
        if width:
            size = int.from_bytes(self._buffer[2 : 2 + width], "big")
        self._opcode, self._left, self._mask = opcode, size, self._buffer[end - 4 : end]
        self._buffer = self._buffer[end:]
        if opcode < Opcode.CLOSE:
            self._fragmented = not first & 0x80
        return True

    def _check(self, first: int, second: int) -> Opcode:
        """The opcode of a frame whose head begins so."""
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise Violation(f"opcode {first & 0x0F}") from None
        if first & 0x70:
            raise Violation("an extension that was not agreed on")
        if not second & 0x80:
            raise Violation("an unmasked frame")
        if opcode >= Opcode.CLOSE and (not first & 0x80 or second & 0x7F > _LARGEST_CONTROL_BYTES):
            raise Violation("a control frame in parts")
        if opcode < Opcode.CLOSE and (opcode is Opcode.CONTINUATION) is not self._fragmented:
            raise Violation("a continuation of nothing" if opcode is Opcode.CONTINUATION else "a message inside another")
        return opcode

    def _read_payload(self) -> Piece | None:
        """Take what there is of the payload; of a control frame, all or nothing."""
        assert self._opcode is not None
        opcode = self._opcode
        if (opcode >= Opcode.CLOSE and len(self._buffer) < self._left) or (self._left and not self._buffer):
            return None
        taken = self._buffer[: self._left]
        self._buffer = self._buffer[len(taken) :]
        self._left -= len(taken)
        payload = _masked(taken, self._mask)
        turn = len(taken) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        if not self._left:
            self._opcode = None
        return Piece(opcode, payload)


def _masked(data: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")
