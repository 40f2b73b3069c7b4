"""Reads a container's log: whole, from the end, between two times, and as it grows.

The monitor writes it (``runtime/logdriver.py``); nothing here is ever loaded whole. ``log_files`` knows the files, ``log_entries`` what is
in them.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote_plus

from wherry.containers.log_entries import STREAMS, Decoded, Format, JsonEntries, LocalEntries, stamp
from wherry.containers.log_files import Segment, open_all, successors

_HEADERS = {(number, size): struct.pack(">BxxxI", number, size) for number in STREAMS.values() for size in range(512)}
FORMATS: dict[str, Format] = {"json-file": JsonEntries(), "local": LocalEntries()}


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


class Renderer:
    """Turns whole entries into what goes to the client: frames, or raw bytes."""

    def __init__(self, query: LogQuery, form: Format) -> None:
        self._query = query
        self._form = form
        self._since = stamp(query.since_ns) if query.since_ns else ""
        self._until = stamp(query.until_ns) if query.until_ns else ""
        self._plain = not (self._since or self._until or query.timestamps or query.details)
        self._wanted = {STREAMS[name] for name, on in (("stdout", query.stdout), ("stderr", query.stderr)) if on}
        self.past_end = False  # an entry later than `until` was seen

    def render(self, entries: bytes) -> bytes:
        if self._plain:
            bodies = self._form.bodies(entries)
        else:
            bodies = [(entry.stream, body) for entry in self._form.decoded(entries) if (body := self._decorated(entry)) is not None]
        if len(self._wanted) < 2:
            bodies = [(number, body) for number, body in bodies if number in self._wanted]
        if not self._query.multiplexed:
            return b"".join([body for _, body in bodies])
        headers = _HEADERS
        parts: list[bytes] = []
        for number, text in bodies:
            size = len(text)
            parts.append(headers[number, size] if size < 512 else struct.pack(">BxxxI", number, size))
            parts.append(text)
        return b"".join(parts)

    def _decorated(self, entry: Decoded) -> bytes | None:
        if entry.at < self._since or self.past_end:
            return None
        if self._until and entry.at > self._until:
            self.past_end = True
            return None
        text = entry.body
        if self._query.details:
            # as Docker escapes them, so that a comma in a value separates nothing
            pairs = ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(entry.attributes.items()))
            text = pairs.encode() + b" " + text
        if self._query.timestamps:
            text = f"{entry.at}Z ".encode() + text
        return text


class LogReader:
    """A position in a container's log; ``read`` goes on from there, across rotations.  Close it, or use ``with``.

    A thread may be reading when another closes it: that waits, so nothing is read from a descriptor that means something else by then.
    """

    def __init__(self, path: str, query: LogQuery, form: Format) -> None:
        self._path, self._query, self._form = path, query, form
        self._renderer = Renderer(query, form)
        self._torn = b""
        self._segments: deque[Segment] = deque()
        self._opened = self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            while self._segments:
                self._segments.popleft().close()

    @property
    def finished(self) -> bool:
        """True when nothing later can be wanted: an entry after ``until`` was seen."""
        return self._renderer.past_end

    def read(self) -> bytes:
        """Rendered entries from here on, at most a block's worth; b"" when there is nothing more now."""
        with self._lock:
            if self._closed:
                return b""
            if not self._opened:
                self._open()
            return self._read()

    def read_all(self) -> Iterator[bytes]:
        while not self.finished and (data := self.read()):
            yield data

    def _open(self) -> None:
        self._opened = True
        self._segments.extend(open_all(self._path))
        if self._query.tail is not None:
            self._seek_tail(self._query.tail)
        elif self._query.since_ns:
            self._seek_since(stamp(self._query.since_ns))

    def _read(self) -> bytes:
        while self._segments or self._go_on():
            data = self._segments[0].read()
            if data:
                if rendered := self._take(data):
                    return rendered
                if self.finished:
                    return b""
            elif len(self._segments) > 1:
                self._leave(self._segments.popleft())
            elif not self._go_on():
                return b""
            # else: a newer file is there; what was written to this one before is still read
        return b""

    def _take(self, data: bytes) -> bytes:
        data = self._torn + data
        length, _, damaged = self._form.ends(data)
        self._torn = data[length:]
        rendered = self._renderer.render(data[:length]) if length else b""
        if damaged or len(self._torn) > self._form.entry_limit:
            self._torn = b""
            while self._segments[0].read():  # nothing behind damage can be told from it
                pass
        return rendered

    def _leave(self, segment: Segment) -> None:
        segment.close()
        self._torn = b""  # torn for good

    def _go_on(self) -> bool:
        """True when files have come that were not there before."""
        newer = successors(self._path, self._segments[-1]) if self._segments else open_all(self._path)
        self._segments.extend(newer)
        return bool(newer)

    def _seek_tail(self, count: int) -> None:
        missing = count
        for index in range(len(self._segments) - 1, -1, -1):
            missing -= self._segments[index].seek_tail(self._form, missing)
            if missing <= 0:
                for _ in range(index):
                    self._segments.popleft().close()
                return

    def _seek_since(self, at: str) -> None:
        while self._segments and not self._segments[0].seek_since(self._form, at):
            if len(self._segments) == 1:
                return  # the newest is kept: it may grow
            self._segments.popleft().close()
