"""A container's log in Docker's json-file format, with rotation: made for many short lines at once.

One line of output is one JSON line; a line over 16 KiB becomes several, of which only the last ends in a newline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping

LINE_LIMIT = 16 << 10
_HALF = LINE_LIMIT // 2
# Go's encoder writes these as escapes; newline is handled apart.
_SPECIAL = re.compile(rb'[\x00-\x09\x0b-\x1f"\\<>&]')
_INVALID = re.compile("[\udc80-\udcff]")
_TABLE = {code: f"\\u{code:04x}" for code in [*range(32), *map(ord, "<>&"), 0x2028, 0x2029]}
del _TABLE[ord("\n")]
_TABLE |= {ord("\r"): "\\r", ord('"'): '\\"', ord("\\"): "\\\\"}


class LogFile:
    """Writes the output of one container.  ``max_size_bytes`` 0: no rotation; else ``max_files`` are kept, ``path`` the newest."""

    def __init__(self, path: str, *, max_size_bytes: int = 0, max_files: int = 1, attributes: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._limit = max_size_bytes
        self._files = max_files
        attrs = f'"attrs":{json.dumps(dict(attributes), separators=(",", ":"), ensure_ascii=False)},' if attributes else ""
        self._tails = {stream: f'","stream":"{stream}",{attrs}"time":"'.encode() for stream in ("stdout", "stderr")}
        self._partial = {"stdout": b"", "stderr": b""}
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes, now_ns: int) -> None:
        """Log what was read; an unfinished line waits for its end, at most 16 KiB of it."""
        data = self._partial[stream] + data
        end = data.rfind(b"\n") + 1
        whole, rest = (data, b"") if end == len(data) else (data[:end], data[end:])
        tail = self._tails[stream] + timestamp(now_ns) + b'"}\n'
        if whole:
            self._put(_lines(whole, tail), tail)
        while len(rest) >= LINE_LIMIT:
            cut = _boundary(rest, LINE_LIMIT)
            self._put(b'{"log":"' + escape(rest[:cut]) + tail, tail)
            rest = rest[cut:]
        self._partial[stream] = rest

    def finish(self, now_ns: int) -> None:
        """Write the unfinished lines as they are, and close."""
        for stream, rest in self._partial.items():
            if rest:
                tail = self._tails[stream] + timestamp(now_ns) + b'"}\n'
                self._put(b'{"log":"' + escape(rest) + tail, tail)
        os.close(self._fd)

    def _put(self, text: bytes, tail: bytes) -> None:
        if not self._limit or self._size + len(text) <= self._limit:
            self._append(text)
            return
        for line in text.splitlines(keepends=True):
            if self._size and self._size + len(line) > self._limit:
                self._rotate()
            self._append(line)

    def _append(self, text: bytes) -> None:
        self._size += len(text)
        view = memoryview(text)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError:  # a full disk must not stop the container; Docker drops the line too
                return

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(self._files - 2, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        if self._files > 1:
            os.replace(self._path, f"{self._path}.1")
        else:
            os.unlink(self._path)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = 0


def escape(data: bytes) -> bytes:
    """``data`` as the inside of a JSON string, byte for byte as Docker's encoder writes it."""
    return _escape(data).replace(b"\n", b"\\n")


def timestamp(now_ns: int) -> bytes:
    """RFC3339 in UTC with up to nine digits, zeros at the end left out."""
    seconds, fraction = divmod(now_ns, 1_000_000_000)
    head = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09}".rstrip("0")
    return f"{head}.{digits}Z".encode() if digits else f"{head}Z".encode()


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
    """Where to cut at most ``limit`` bytes without cutting a UTF-8 sequence."""
    for cut in range(limit, limit - 4, -1):
        if cut < len(data) and data[cut] & 0xC0 != 0x80:
            return cut
    return limit
