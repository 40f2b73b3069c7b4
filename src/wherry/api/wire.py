"""HTTP/1.1 as pure functions over bytes: request heads, chunk lines, response heads, and Docker's stream frames.

Strict on purpose: whatever two programs could read differently is refused (both Content-Length and Transfer-Encoding, a repeated
Content-Length, folded or malformed header lines, bare line feeds, chunk extensions).  Source: RFC 9112.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

MAX_HEAD = 128 * 1024  # bytes of request line and headers: build arguments travel in the query, credentials in headers
MAX_HEADERS = 128
MAX_CHUNK_LINE = 32

_REQUEST_LINE = re.compile(rb"([A-Z]{3,16}) (/[\x21-\x7e]*|\*) HTTP/1\.([01])")
_HEADER_LINES = re.compile(rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)*")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_SINGLE = frozenset({"content-length", "transfer-encoding", "host", "content-type", "expect", "origin"})


class Malformed(Exception):
    """What came is not a request this server reads; the connection cannot be used further."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A request's head.  ``headers``: names in lower case; repeated ones are joined by commas.  ``length`` None: a chunked body."""

    method: str
    path: str  # decoded
    query: str  # as it came
    minor: int  # of HTTP/1.x
    headers: Mapping[str, str]
    length: int | None

    @property
    def keep_alive(self) -> bool:
        options = self.headers.get("connection", "").lower()
        return "close" not in options if self.minor else "keep-alive" in options


def parse_head(data: bytes) -> Head:
    """``data``: everything before the empty line.  Raises Malformed."""
    line, rest = data.partition(b"\r\n")[0], data[data.find(b"\r\n") :] if b"\r\n" in data else b""
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise Malformed("malformed request line")
    if _HEADER_LINES.fullmatch(rest) is None:
        raise Malformed("malformed header")
    minor = int(found[3])
    headers = _headers(rest)
    if minor and "host" not in headers:
        raise Malformed("missing required Host header")
    path, _, query = found[2].partition(b"?")
    if _BAD_ESCAPE.search(path):
        raise Malformed("malformed path")
    return Head(
        method=found[1].decode(),
        path=unquote_to_bytes(path).decode("utf-8", "replace"),
        query=query.decode("ascii"),
        minor=minor,
        headers=headers,
        length=_body_length(headers, minor),
    )


def parse_chunk_size(line: bytes) -> int:
    """The size a chunk announces.  Raises Malformed."""
    if _CHUNK_SIZE.fullmatch(line) is None:
        raise Malformed("malformed chunk")
    return int(line, 16)


def response_head(status: int, headers: Mapping[str, str]) -> bytes:
    """A response's head with its empty line; control characters in values (an echoed name) are dropped."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" if value.isprintable() else f"{name}: {_printable(value)}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


@lru_cache(1)
def date(now_s: int) -> str:
    """A second of the epoch as the Date header has it."""
    return formatdate(now_s, usegmt=True)


def frame(stream: int, payload: bytes) -> bytes:
    """One frame of Docker's multiplexed stream; ``stream``: 0 stdin, 1 stdout, 2 stderr."""
    return struct.pack(">BxxxI", stream, len(payload)) + payload


def _headers(lines: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    pairs = lines.decode("latin-1").split("\r\n")[1:]
    if len(pairs) > MAX_HEADERS:
        raise Malformed("too many headers", 431)
    for pair in pairs:
        name, _, value = pair.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in _SINGLE:
                raise Malformed(f"repeated {name} header")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _body_length(headers: Mapping[str, str], minor: int) -> int | None:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or minor == 0 or coding.lower() != "chunked":
            raise Malformed("unsupported transfer encoding")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Malformed("malformed Content-Length")
    return int(length)


def _printable(value: str) -> str:
    return "".join(letter for letter in value if letter.isprintable())
