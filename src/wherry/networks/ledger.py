"""What running containers hold, in one file under the run directory that grows by a line with each change.

Not in the database: it must outlive the daemon, not the machine (no container outlives that), so it needs no fsync. Not a file for each:
to make, rename and remove one costs a hundred times as much as to append a line.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

import msgspec

from wherry.networks.record import SandboxRecord

log = logging.getLogger(__name__)

_NAME = "ledger"
_KEPT, _GONE = b"+", b"-"
_SMALL = 256 << 10
_GROWTH = 4  # the file is written anew when it is so many times what still counts


class Ledger:
    """Sandbox records by container id in ``folder``, which is made when it is missing.  Usable from any thread; ``load`` comes first."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, _NAME)
        self._lock = threading.Lock()
        self._held: dict[str, bytes] = {}
        self._fd = -1
        self._size = 0
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def load(self) -> list[SandboxRecord]:
        """All records; what is unreadable is said in the log and left out from then on."""
        with self._lock:
            self._held = self._read()
            self._begin()
            return [msgspec.json.decode(line, type=SandboxRecord) for line in self._held.values()]

    def keep(self, record: SandboxRecord) -> None:
        """Note or replace a record; who reads after a crash finds the old or the new one.  Raises OSError; nothing has changed then."""
        line = msgspec.json.encode(record)
        with self._lock:
            self._append(_KEPT + line)
            self._held[record.container_id] = line

    def forget(self, container_id: str) -> None:
        """Remove a record; an absent one is success.  On a full disk it stays in the file: who reads that knows what still runs."""
        with self._lock:
            if self._held.pop(container_id, None) is None:
                return
            try:
                self._append(_GONE + container_id.encode())
            except OSError as error:
                log.warning("%s: %s", self._path, error)

    def close(self) -> None:
        """Twice is success."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _read(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        try:
            with open(self._path, "rb") as file:
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return found
        for line in filter(None, lines):
            body = line[1:]
            if line.startswith(_GONE):
                found.pop(body.decode(errors="replace"), None)
                continue
            try:
                found[msgspec.json.decode(body, type=SandboxRecord).container_id] = body
            except msgspec.DecodeError as error:
                log.warning("%s: %s", self._path, error)
        return found

    def _begin(self) -> None:
        """Write the file anew, with what counts."""
        fresh = self._path + "~"
        body = b"".join(_KEPT + line + b"\n" for line in self._held.values())
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, body, 0)
            os.rename(fresh, self._path)
        except BaseException:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(fresh)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, len(body)

    def _append(self, line: bytes) -> None:
        if self._size > _SMALL and self._size > _GROWTH * sum(map(len, self._held.values())):
            with suppress(OSError):  # a full disk may still have room for the line
                self._begin()
        body = line + b"\n"
        try:
            _write(self._fd, body, self._size)
        except OSError:
            os.ftruncate(self._fd, self._size)  # of a full disk it may have taken a part
            raise
        self._size += len(body)


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
