"""Attempts at the known holes of container runtimes, from inside real containers.

One test for each mechanism; `docs/security.md` has the table of which CVE is tried where.
"""

from __future__ import annotations

import os

import pytest
from tests.conftest import Daemon

pytestmark = [pytest.mark.root, pytest.mark.slow]
ALONE = ("--net", "none")


def test_the_hosts_null_device_is_out_of_reach(engine: Daemon) -> None:
    """Ours, found by trying every call: standard input was the host's node, whose mode root in a container could change."""
    before = os.stat("/dev/null")
    spoil = "chmod 640 /proc/self/fd/0; chown 5:5 /proc/self/fd/0; touch -t 200001010000 /proc/self/fd/0"
    engine.run("run", "-d", "--name", "nulls", *ALONE, "bb", "sleep", "1000")
    try:
        engine.run("run", "--rm", *ALONE, "bb", "sh", "-c", spoil, check=False)
        engine.run("exec", "nulls", "sh", "-c", f"{spoil}; rm /dev/null; ln -s /etc/passwd /dev/null")
        shown = engine.out("exec", "nulls", "sh", "-c", f"{spoil}; cat; ls -l /proc/self/fd/0 /etc/passwd")
        assert "pipe:" in shown
        assert "-rw-r--r--" in shown
    finally:
        engine.run("rm", "-f", "nulls")
        after = os.stat("/dev/null")
        os.chmod("/dev/null", before.st_mode & 0o7777)
        os.chown("/dev/null", before.st_uid, before.st_gid)
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
