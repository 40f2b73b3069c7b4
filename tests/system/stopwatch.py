"""How long something takes, told in seconds of a quiet machine: another's work beside the tests slows everything down."""

from __future__ import annotations

import subprocess
import sys
import time
from types import TracebackType

_QUIET_S = 0.05  # what an interpreter's start takes at most where nothing else runs


class Stopwatch:
    """It goes from when it is made.  ``with Stopwatch() as watch: ...`` and then ``watch.seconds``, or by `stop`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start_s = _start_of_an_interpreter()
        self._began = time.monotonic()

    def stop(self) -> float:
        """The seconds so far.  The pace of the machine is taken before and after."""
        took = time.monotonic() - self._began
        slowest = max(self._start_s, _start_of_an_interpreter())
        self.seconds = took / max(1.0, slowest / _QUIET_S)
        return self.seconds

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _start_of_an_interpreter() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-I", "-c", ""], check=True, timeout=60)
    return time.monotonic() - began
