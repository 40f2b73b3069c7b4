"""What something hostile cost the daemon: memory, files, time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.conftest import Daemon
from tests.system.stopwatch import Stopwatch

MEMORY_KB = 20_000


class Memory:
    """The daemon's highest use since this was made."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self._proc = Path("/proc") / str(daemon.process.pid)
        (self._proc / "clear_refs").write_text("5")
        self._before = self._peak()

    def _peak(self) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    def growth_kb(self) -> int:
        return max(self._peak() - self._before, 0)


def stored(daemon: Daemon) -> list[str]:
    """Every file that images could have left; a directory that goes while it is looked at has none."""
    places = ("content", "snapshots", "partial", "staging")
    walks = (os.walk(daemon.root / "data" / place) for place in places)
    return sorted(os.path.join(base, name) for walk in walks for base, _, files in walk for name in files)


class Watch:
    """Begun before the hostile act."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.before = stored(daemon)
        self._memory = Memory(daemon)
        self._stopwatch = Stopwatch()
        self.seconds = self.grown_kb = 0.0

    def end(self, group: str, name: str, words: str) -> None:
        """The act is over and ``words`` were told: a row for ``tools/hostile``."""
        self.grown_kb, self.seconds = self._memory.growth_kb(), self._stopwatch.stop()
        told = " ".join(words.split())
        sys.stdout.write(f"row\t{group}\t{name}\t{self.seconds:.2f}\t{self.grown_kb / 1024:.1f}\t{told}\n")

    def left(self) -> list[str]:
        """Files that were not there before."""
        return [path for path in stored(self._daemon) if path not in self.before]
