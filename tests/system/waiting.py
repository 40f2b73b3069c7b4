"""Waiting for something that another process brings about."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Look again and again; fails when it does not happen in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def logged(path: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    """The first group of the pattern's first match in the log that the process is writing; fails with the log when it ends without."""
    deadline = time.monotonic() + 60
    while True:
        ended = process.poll() is not None
        text = path.read_text(errors="replace")
        if found := re.search(pattern, text):
            return found[1]
        if ended or time.monotonic() > deadline:
            raise AssertionError(text)
        time.sleep(0.01)
