"""`wherry` in a real terminal: a pty whose other end the test reads and types on."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from types import TracebackType

from tests.conftest import WHERRY, Daemon


class Terminal:
    """``wherry ARGUMENTS`` as the foreground program of a terminal of ``rows`` x ``columns``."""

    def __init__(self, engine: Daemon, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self.seen = ""
        self._from = 0
        self._ours, self._theirs = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self._theirs)
        environment = {**os.environ, "WHERRY_HOST": engine.host, "DOCKER_CONFIG": f"{engine.root}/config", "TERM": "xterm"}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", WHERRY, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=environment,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def expect(self, text: str, *, seconds: float = 60) -> str:
        """Read until ``text`` comes, and return what came since the last call, ``text`` included."""
        deadline = time.monotonic() + seconds
        while (found := self.seen.find(text, self._from)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come; the terminal shows:\n{self.seen[self._from :]}"
            self._read(min(left, 0.5))
        start, self._from = self._from, found + len(text)
        return self.seen[start : self._from]

    def code(self, *, seconds: float = 60) -> int:
        """The exit code of `wherry`, which must end by itself."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running; the terminal shows:\n{self.seen[self._from :]}"
            self._read(0.02)
        self._read(0)
        assert self.process.returncode is not None
        return self.process.returncode

    def resize(self, rows: int, columns: int) -> None:
        """As a window's edge that is dragged: the kernel sends SIGWINCH to the foreground program."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self._theirs))

    def _read(self, seconds: float) -> None:
        while select.select([self._ours], [], [], seconds)[0]:
            self.seen += os.read(self._ours, 65536).decode(errors="replace")
            seconds = 0
