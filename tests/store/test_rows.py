from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from wherry.store.records import Records
from wherry.store.rows import KIND, Rows
from wherry.store.snapshot import Row


def test_rows_are_what_the_records_hold_whoever_writes_and_whatever_is_undone(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "state.db"))

    def put(name: str, row: Row) -> None:
        records.put(KIND, name, msgspec.json.encode(row))

    put("before", Row(directory="a", tar="t"))
    rows = Rows(records)
    assert rows.named("a") == "before"
    put("child", Row(directory="b", parent="before"))
    assert rows.child("before") == "child"

    def change() -> None:
        with records.transaction():
            records.delete(KIND, "child")
            put("other", Row(directory="c", tar="t"))
            assert rows.child("before") is None
            assert len(rows.with_tar("t")) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert rows.child("before") == "child"
    assert rows.get("other") is None
    assert [row.directory for row in rows.with_tar("t")] == ["a"]
    put("before", Row(directory="a", damaged=True))
    assert rows.with_tar("t") == []
    records.delete(KIND, "child")
    assert [name for name, _ in rows.all()] == ["before"]
    assert (rows.child("before"), rows.named("b")) == (None, None)
    records.close()
