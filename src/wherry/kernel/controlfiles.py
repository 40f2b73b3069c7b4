"""The files of control groups, and the like in /proc: small texts, read and written at once."""

from __future__ import annotations

import errno
import os


def read(path: str) -> str:
    """Raises FileNotFoundError also for what goes meanwhile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open() would cost several times the reading
        try:
            data = b""
            while chunk := os.read(fd, 1 << 16):
                data += chunk
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.ENODEV:  # kernfs: its group was removed while it was opened (v2) or read
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        raise
    return data.decode(errors="replace")


def read_or_nothing(path: str) -> str:
    try:
        return read(path)
    except OSError:
        return ""


def write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {value!r}: {os.strerror(error.errno or 0)}", path) from None
    finally:
        os.close(fd)


def table(text: str) -> dict[str, int]:
    """A table of "name number" lines."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].lstrip("-").isdigit()}


def number(text: str) -> int:
    stripped = text.strip()
    return int(stripped) if stripped.isdigit() else 0
