"""Questions to the person at the terminal."""

from __future__ import annotations

import sys


def confirm(warning: str, question: str = "\nAre you sure you want to continue? [y/N] ") -> bool:
    """Print ``warning`` and ask; anything but ``y`` and an end of input mean no."""
    sys.stdout.write(warning + question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
