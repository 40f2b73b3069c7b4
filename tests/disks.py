"""File systems in memory: small ones fill up quickly."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_memory(place: Path, *, size_mib: int = 0) -> Iterator[Path]:
    """One of this size, or of half the memory, mounted on the directory, which is made; it goes even where a file is still open."""
    place.mkdir(exist_ok=True)
    options = ["-o", f"size={size_mib}m"] if size_mib else []
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
