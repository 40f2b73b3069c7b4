"""A blob that is read while it comes: one writer, and any number of readers in threads of their own.

A reader sees the end of the blob only when the writer has found all of it right, so who makes something of what he reads, and keeps it only
at the end, keeps nothing that is wrong. When the writer starts over or gives up, its readers are told so and begin again, or don't.
"""

from __future__ import annotations

import io
import os
import threading


class Broken(Exception):
    """What was read so far is void; who wrote it knows why."""


class Abandoned(Exception):
    """The reader was told that nobody wants the rest."""


class Arrival:
    """How far a blob has come in its file, and whether it is whole."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = 0
        self._size = 0
        self._whole = False

    @property
    def is_whole(self) -> bool:
        return self._whole

    def reach(self, size: int) -> None:
        """The first ``size`` bytes can be read."""
        self._change(size=size)

    def finish(self) -> None:
        """No more will come, and all of it is right."""
        self._change(size=self._size, whole=True)

    def fail(self) -> None:
        """What has come is void for those who read it; a later writer may begin again."""
        self._change(size=0, turn=1)

    def wake(self) -> None:
        """Let readers look whether they are still wanted."""
        self._change(size=self._size, whole=self._whole)

    def wait(self, position: int, turn: int | None, stop: threading.Event) -> tuple[int, int]:
        """Block until there is more than ``position``, or all: the size and the turn.  Raises Broken, Abandoned."""
        with self._changed:
            while True:
                if stop.is_set():
                    raise Abandoned
                if turn is not None and turn != self._turn:
                    raise Broken
                if self._size > position or self._whole:
                    return self._size, self._turn
                self._changed.wait()

    def _change(self, *, size: int, whole: bool = False, turn: int = 0) -> None:
        with self._changed:
            self._size, self._whole = size, whole
            self._turn += turn
            self._changed.notify_all()


class ArrivingFile(io.RawIOBase):
    """The file ``fd`` (taken over) of ``arrival``, from its first byte; reading waits for the writer."""

    def __init__(self, fd: int, arrival: Arrival, turn: int, stop: threading.Event) -> None:
        super().__init__()
        self._fd = fd
        self._arrival = arrival
        self._turn = turn
        self._stop = stop
        self._position = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, as many as have come; none at the end of what proved right.  Raises Broken, Abandoned, OSError."""
        assert size >= 0, "a blob is read in blocks"
        there, _ = self._arrival.wait(self._position, self._turn, self._stop)
        data = os.pread(self._fd, min(size, there - self._position), self._position)
        if not data and there > self._position:
            raise Broken
        self._position += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()
