"""Reads json-file logs: whole, from the end, between two times, and as they grow.

The monitor writes them (``runtime/monitor.py``); nothing here is ever loaded whole.  Format: one JSON object a line,
``{"log":..., "stream":..., "time":..., "attrs":{...}}``; older files are ``PATH.1``, ``PATH.2`` ...  Source: Docker's json-file driver.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

CHUNK = 1 << 18  # bytes read at a time
STREAMS = {"stdout": 1, "stderr": 2}
_HEADERS = {(number, size): struct.pack(">BxxxI", number, size) for number in STREAMS.values() for size in range(512)}


class Entry(msgspec.Struct):
    """One line of a log file."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


_decode_many = msgspec.json.Decoder(list[Entry]).decode
_decode_one = msgspec.json.Decoder(Entry).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What a client wants of a log.  ``tail`` None: everything; ``multiplexed`` False for a terminal's raw bytes."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    timestamps: bool = False
    details: bool = False
    follow: bool = False
    multiplexed: bool = True


def stamp(at_ns: int) -> str:
    """Nanoseconds as ``2026-11-21T00:58:26.284222613``: always nine digits, so that text order is time order."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}"


def padded(rfc3339: str) -> str:
    """A log line's time, whose trailing zeros were trimmed, in the form of ``stamp``."""
    text = rfc3339.removesuffix("Z")
    return text.ljust(29, "0") if "." in text else text + ".000000000"


class Renderer:
    """Turns whole log lines into what goes to the client: frames, or raw bytes."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._since = stamp(query.since_ns) if query.since_ns else ""
        self._until = stamp(query.until_ns) if query.until_ns else ""
        self._plain = not (self._since or self._until or query.timestamps or query.details)
        self._wanted = {name for name, on in (("stdout", query.stdout), ("stderr", query.stderr)) if on}
        self.past_end = False  # a line later than `until` was seen

    def render(self, lines: bytes) -> bytes:
        """``lines`` ends at a line's end.  A torn or foreign line is passed over, as Docker does."""
        entries = _parse(lines)
        wanted = self._wanted
        if len(wanted) < 2:
            entries = [entry for entry in entries if entry.stream in wanted]
        if self._plain:
            bodies = [(STREAMS.get(entry.stream, 1), entry.log.encode()) for entry in entries]
        else:
            bodies = [body for entry in entries if (body := self._decorated(entry)) is not None]
        if not self._query.multiplexed:
            return b"".join([body for _, body in bodies])
        headers = _HEADERS
        parts: list[bytes] = []
        for number, text in bodies:
            size = len(text)
            parts.append(headers[number, size] if size < 512 else struct.pack(">BxxxI", number, size))
            parts.append(text)
        return b"".join(parts)

    def _decorated(self, entry: Entry) -> tuple[int, bytes] | None:
        at = padded(entry.time)
        if at < self._since:
            return None
        if self._until and at > self._until:
            self.past_end = True
            return None
        text = entry.log
        if self._query.details:
            text = ",".join(f"{key}={value}" for key, value in sorted((entry.attrs or {}).items())) + " " + text
        if self._query.timestamps:
            text = f"{at}Z {text}"
        return STREAMS.get(entry.stream, 1), text.encode()


def _parse(lines: bytes) -> list[Entry]:
    try:
        return _decode_many(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]")
    except msgspec.DecodeError:
        entries = []
        for line in lines.splitlines():
            try:
                entries.append(_decode_one(line))
            except msgspec.DecodeError:
                continue
        return entries


def files_of(path: str) -> list[str]:
    """The rotated files and the current one, oldest first; only those that exist."""
    older: list[str] = []
    while os.path.exists(f"{path}.{len(older) + 1}"):
        older.append(f"{path}.{len(older) + 1}")
    return [*reversed(older), *([path] if os.path.exists(path) else [])]


class LogReader:
    """A position in a container's log; ``read`` goes on from there, across a rotation.  Close it, or use ``with``."""

    def __init__(self, path: str, query: LogQuery) -> None:
        self._path = path
        self._renderer = Renderer(query)
        self._open_files = ExitStack()
        self._descriptors: list[int] = []
        self._torn = b""
        for name in files_of(path):
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            self._descriptors.append(descriptor)
            self._open_files.callback(os.close, descriptor)
        if query.tail is not None:
            self._seek_to_tail(query.tail)

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open_files.close()

    @property
    def finished(self) -> bool:
        """True when nothing later can be wanted: a line after ``until`` was seen."""
        return self._renderer.past_end

    def read(self) -> bytes:
        """Rendered lines from here on, at most a chunk's worth; b"" when there is nothing more now."""
        while self._descriptors:
            data = os.read(self._descriptors[0], CHUNK)
            if data:
                data = self._torn + data
                end = data.rfind(b"\n") + 1
                self._torn = data[end:]
                if end and (rendered := self._renderer.render(data[:end])):
                    return rendered
                continue
            if len(self._descriptors) == 1 and not self._rotated():
                return b""
            self._descriptors.pop(0)  # the file stays open until close(): few, and simple
        return b"" if not self._reopen() else self.read()

    def read_all(self) -> Iterator[bytes]:
        while (data := self.read()) and not self.finished:
            yield data
        if data:
            yield data

    def _rotated(self) -> bool:
        """True when the path now names another file than the one being read; then that one joins the list."""
        try:
            now, ours = os.stat(self._path), os.fstat(self._descriptors[-1])
        except FileNotFoundError:
            return False
        return (now.st_ino, now.st_dev) != (ours.st_ino, ours.st_dev) and self._reopen()

    def _reopen(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        self._descriptors.append(descriptor)
        self._open_files.callback(os.close, descriptor)
        return True

    def _seek_to_tail(self, count: int) -> None:
        """Leaves the reader at the start of the last ``count`` lines of all files together."""
        missing = count
        for index in range(len(self._descriptors) - 1, -1, -1):
            position, found = _last_lines(self._descriptors[index], missing)
            os.lseek(self._descriptors[index], position, os.SEEK_SET)
            missing -= found
            if missing <= 0:
                del self._descriptors[:index]
                return


def _last_lines(descriptor: int, count: int) -> tuple[int, int]:
    """Offset where the last ``count`` lines of a file begin, and how many lines that is."""
    size = os.fstat(descriptor).st_size
    if count <= 0:
        return size, 0
    position, found = size, 0
    while position > 0:
        step = min(CHUNK, position)
        block = os.pread(descriptor, step, position - step)
        end = len(block) - (1 if position == size and block.endswith(b"\n") else 0)
        while (newline := block.rfind(b"\n", 0, end)) >= 0:
            found += 1
            if found == count:
                return position - step + newline + 1, found
            end = newline
        position -= step
    return 0, found + 1 if size else 0
