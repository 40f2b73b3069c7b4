"""How files of an image are shown."""

from __future__ import annotations

import pytest

from wherry.cli.commands.image_files import _line, row

ENTRY = {"Path": "/a\x1b[2J\n", "Type": "file", "Mode": 0o644, "UID": 0, "GID": 7, "Size": 1234, "Layer": 2, "Target": ""}


@pytest.mark.parametrize(
    ("mode", "kind", "shown"),
    [
        (0o644, "file", "-rw-r--r--"),
        (0o1777, "directory", "drwxrwxrwt"),
        (0o4755, "file", "-rwsr-xr-x"),
        (0o2640, "file", "-rw-r-S---"),
        (0o777, "symlink", "lrwxrwxrwx"),
        (0o600, "block", "brw-------"),
    ],
)
def test_modes_look_as_those_of_ls(mode: int, kind: str, shown: str) -> None:
    assert row({**ENTRY, "Mode": mode, "Type": kind})["Mode"] == shown


def test_a_name_cannot_drive_the_terminal() -> None:
    line = _line(row(ENTRY), ("Mode", "Owner", "Size", "Layer", "Path"))
    assert line == "-rw-r--r--   0:7           1.23kB    2       /a\\x1b[2J\\x0a\n"
