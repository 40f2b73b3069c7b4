"""What a runtime's log says; the containers themselves are tried in ``tests/system/test_runtimes.py``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.runtime.failure import LaunchFailure
from wherry.runtime.foreign import find_init, log_entries


def test_a_log_is_read_however_its_lines_are_broken() -> None:
    text = 'ed": 1}\n{"level":"warning","msg":"w"}\n{\n  "msg": "a {brace} in it",\n  "level": "error"\n}\n{"level":"err'
    assert [entry["msg"] for entry in log_entries(text)] == ["w", "a {brace} in it"]
    assert list(log_entries("no JSON {at all")) == []


def test_the_program_of_init_is_the_one_given_or_the_first_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchFailure, match=r'exec: "docker-init": executable file not found in \$PATH') as none:
        find_init("")
    assert none.value.code == 127
    for name in ("catatonit", "docker-init"):
        (tmp_path / name).touch(0o755)
        assert find_init("") == os.fspath(tmp_path / name)
    assert find_init("/bin/busybox") == "/bin/busybox"
    with pytest.raises(LaunchFailure, match='"/nonexistent/init"'):
        find_init("/nonexistent/init")
