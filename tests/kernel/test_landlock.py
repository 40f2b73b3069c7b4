from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.kernel import landlock

PROGRAM = """
import os, socket, sys
from wherry.kernel import landlock, process
process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
inside, outside = sys.argv[1:]
kept = os.open(outside + "/file", os.O_RDWR)
fd = os.open(inside, os.O_RDONLY)
version = landlock.confine([fd])
assert version > 0
os.mkdir(inside + "/new")
open(inside + "/new/file", "w").close()
assert os.read(kept, 4) == b"text"
def refused(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return
    raise AssertionError((function, arguments))
refused(open, outside + "/file")
refused(os.mkdir, outside + "/new")
refused(os.unlink, outside + "/file")
refused(os.link, inside + "/new/file", outside + "/linked")
refused(os.symlink, "x", outside + "/link")
if version >= 3:  # Linux 6.2
    refused(os.truncate, outside + "/file", 0)
refused(socket.create_connection, ("127.0.0.1", 9))
"""


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_only_what_is_below_the_directories_can_be_changed_or_opened(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_text("text")
    subprocess.run([sys.executable, "-c", PROGRAM, str(inside), str(outside)], check=True, env=os.environ)
    assert sorted(path.name for path in outside.iterdir()) == ["file"]
