from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from wherry.store.records import Records
from wherry.store.unreadable import ANY, forget, idents, is_doubtful


def check(ident: str, body: bytes) -> None:
    if body == b"bad":
        raise ValueError("bad body")


@pytest.mark.parametrize("history", [True, False], ids=["with an earlier one", "without"])
def test_a_row_that_no_room_reads_is_kept_and_out_of_the_way(tmp_path: Path, history: bool) -> None:
    path = tmp_path / "state.db"
    records = Records(str(path))
    records.put("volume", "whole", b"good")
    if history:
        records.put("volume", "torn", b"good")
    records.put("volume", "torn", b"bad")
    records.close()
    records = Records(str(path), {"volume": check})
    assert records.items("volume") == [*([("torn", b"good")] if history else []), ("whole", b"good")]
    assert idents(records, "volume") == (set() if history else {"torn"})
    assert len(records.mended) == 1
    assert [file.read_bytes() for file in (tmp_path / "quarantine").iterdir()] == [b"bad"]
    records.close()
    assert Records(str(path), {"volume": check}).mended == []


def test_text_where_bytes_should_be_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    records = Records(str(path))
    records.put("volume", "torn", b"good")
    records.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE item SET body = 'bad' WHERE kind = 'volume'")
    connection.close()
    (tmp_path / "state.journal").unlink()
    records = Records(str(path), {"volume": check})
    assert idents(records, "volume") == {"torn"}
    records.close()


def test_records_from_the_second_copy_are_doubtful_until_that_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    records = Records(str(path))
    records.put("volume", "whole", b"good")
    assert not is_doubtful(records, "layer")
    records.close()
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    for _ in range(2):
        records = Records(str(path))
        assert records.get("volume", "whole") == b"good"
        assert is_doubtful(records)
        assert is_doubtful(records, "layer")
        assert idents(records, "layer") == set()
        records.close()
    records = Records(str(path))
    forget(records, ANY, "")
    assert not is_doubtful(records)
    records.close()
