"""What a runtime's log says; the containers themselves are tried in ``tests/system/test_runtimes.py``."""

from __future__ import annotations

from wherry.runtime.foreign import log_entries


def test_a_log_is_read_however_its_lines_are_broken() -> None:
    text = 'ed": 1}\n{"level":"warning","msg":"w"}\n{\n  "msg": "a {brace} in it",\n  "level": "error"\n}\n{"level":"err'
    assert [entry["msg"] for entry in log_entries(text)] == ["w", "a {brace} in it"]
    assert list(log_entries("no JSON {at all")) == []
