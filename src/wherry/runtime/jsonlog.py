"""A container's log in Docker's json-file format: made for many short lines at once.

One line of output is one JSON line; a line over 16 KiB becomes several, of which only the last ends in a newline.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from wherry.runtime.eventloop import EventLoop
from wherry.runtime.logfile import Layout, Limits, LogFile
from wherry.runtime.timestamps import rfc3339

LINE_LIMIT = 16 << 10
_HALF = LINE_LIMIT // 2
_BLOCK = 64 << 10
# Go's encoder writes these as escapes; newline is handled apart.
_SPECIAL = re.compile(rb'[\x00-\x09\x0b-\x1f"\\<>&]')
_INVALID = re.compile("[\udc80-\udcff]")
_TABLE = {code: f"\\u{code:04x}" for code in [*range(32), *map(ord, "<>&"), 0x2028, 0x2029]}
del _TABLE[ord("\n")]
_TABLE |= {ord("\r"): "\\r", ord('"'): '\\"', ord("\\"): "\\\\"}


class JsonLog:
    """Writes the output of one container; ``attributes`` stand in every entry."""

    def __init__(self, path: str, limits: Limits, *, attributes: Mapping[str, str] | None = None, loop: EventLoop | None = None) -> None:
        self._file = LogFile(path, LAYOUT, limits, loop)
        attrs = _attributes(attributes) if attributes else b""
        self._tails = {stream: b'","stream":"' + stream.encode() + b'",' + attrs + b'"time":"' for stream in ("stdout", "stderr")}
        self._partial = {"stdout": b"", "stderr": b""}

    def write(self, stream: str, data: bytes, now_ns: int) -> None:
        """Log what was read; an unfinished line waits for its end, at most 16 KiB of it."""
        data = self._partial[stream] + data
        end = data.rfind(b"\n") + 1
        whole, rest = (data, b"") if end == len(data) else (data[:end], data[end:])
        tail = self._tails[stream] + rfc3339(now_ns) + b'"}\n'
        if whole:
            self._file.append(_lines(whole, tail), now_ns)
        while len(rest) >= LINE_LIMIT:
            cut = _boundary(rest, LINE_LIMIT)
            self._file.append(b'{"log":"' + escape(rest[:cut]) + tail, now_ns)
            rest = rest[cut:]
        self._partial[stream] = rest

    def finish(self, now_ns: int) -> None:
        """Write the unfinished lines as they are, and close."""
        for stream, rest in self._partial.items():
            if rest:
                tail = self._tails[stream] + rfc3339(now_ns) + b'"}\n'
                self._file.append(b'{"log":"' + escape(rest) + tail, now_ns)
        self._file.close()


def escape(data: bytes) -> bytes:
    """``data`` as the inside of a JSON string, byte for byte as Docker's encoder writes it."""
    return _escape(data).replace(b"\n", b"\\n")


def _split(entries: bytes) -> list[bytes]:
    return entries.splitlines(keepends=True)


def _whole(fd: int, size: int) -> int:
    """Up to where the last line end is."""
    position = size
    while position > 0:
        step = min(_BLOCK, position)
        newline = os.pread(fd, step, position - step).rfind(b"\n")
        if newline >= 0:
            return position - step + newline + 1
        position -= step
    return 0


LAYOUT = Layout(split=_split, whole=_whole)


def _attributes(attributes: Mapping[str, str]) -> bytes:
    pairs = [b'"%s":"%s"' % (escape(name.encode()), escape(value.encode())) for name, value in sorted(attributes.items())]
    return b'"attrs":{' + b",".join(pairs) + b"},"


def _lines(whole: bytes, tail: bytes) -> bytes:
    """JSON lines for complete lines.  The usual case is one pass of `replace` over everything."""
    head, end = b'{"log":"', b"\\n" + tail
    if not _may_hold_long_line(whole):
        return head + _escape(whole[:-1]).replace(b"\n", end + head) + end
    pieces: list[bytes] = []
    for line in whole[:-1].split(b"\n"):
        rest = line + b"\n"
        while len(rest) > LINE_LIMIT:
            cut = _boundary(rest, LINE_LIMIT)
            pieces.append(escape(rest[:cut]))
            rest = rest[cut:]
        pieces.append(escape(rest))
    return b"".join([head + piece + tail for piece in pieces])


def _escape(data: bytes) -> bytes:
    """`escape`, but newlines stay."""
    if data.isascii() and not _SPECIAL.search(data):
        return data
    text = data.decode("utf-8", "surrogateescape").translate(_TABLE)
    return _INVALID.sub("\\\\ufffd", text).encode()


def _may_hold_long_line(whole: bytes) -> bool:
    """A line over the limit covers at least one aligned half of it: look for a newline in each."""
    if len(whole) <= LINE_LIMIT:
        return False
    return any(whole.find(b"\n", start, start + _HALF) < 0 for start in range(0, len(whole) - _HALF + 1, _HALF))


def _boundary(data: bytes, limit: int) -> int:
    """Where to cut at most ``limit`` bytes without cutting a UTF-8 sequence: what is cut in two could not be shown whole again."""
    if limit == len(data):  # what comes next is not known yet
        return limit - _begun(data[-3:])
    for cut in range(limit, limit - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return limit


def _begun(end: bytes) -> int:
    """How many of the last bytes are a UTF-8 sequence that goes on."""
    for back, byte in enumerate(reversed(end), 1):
        if byte & 0xC0 != 0x80:
            return back if byte >= (0xC0, 0xE0, 0xF0)[back - 1] else 0
    return 0
