"""A damaged, cut back or lost database comes back from its journal; a damaged journal never harms a whole database."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from wherry.spec.digest import sha256
from wherry.store import journal
from wherry.store.records import Records

Harm = Callable[[Path], None]
NAMES = {"one": "a", "two": "b"}


def fill(path: Path) -> None:
    with closing(Records(str(path))) as records:
        for number in range(50):
            records.put("thing", f"{number:03}", b"body %d" % number * 20)
        records.delete("thing", "049")
        for name, ident in NAMES.items():
            records.claim("thing", name, ident)
        records.claim("thing", "gone", "c")
        records.release("thing", "gone")


def check(records: Records) -> None:
    assert records.items("thing") == [(f"{number:03}", b"body %d" % number * 20) for number in range(49)]
    assert dict(records.names("thing")) == NAMES


def flip(path: Path) -> None:
    chance = random.Random(path.name)
    data = bytearray(path.read_bytes())
    for _ in range(40):
        data[chance.randrange(100, len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_a_body(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b"body 7body 7") > 1
    path.write_bytes(data.replace(b"body 7body 7", b"body 7bodY 7", 1))


HARMS: dict[str, Harm] = {
    "deleted": Path.unlink,
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)) and None,
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "one letter of a body flipped": flip_a_body,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_database_comes_back(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "state.db"
    fill(path)
    HARMS[harm](path)
    with closing(Records(str(path))) as records:
        check(records)
        assert records.mended
        assert not records.is_new
    with closing(Records(str(path))) as records:
        check(records)
        assert not records.mended


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_journal_is_written_again(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "state.db"
    fill(path)
    HARMS[harm](tmp_path / "state.journal")
    with closing(Records(str(path))) as records:
        check(records)
        assert not records.mended
        assert records.has_second_copy
    path.unlink()
    with closing(Records(str(path))) as records:
        check(records)


def test_a_database_that_lost_its_log_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    fill(path)
    records = Records(str(path))
    records.put("thing", "999", b"only in the log")
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("state.db", "state.journal"):
        (killed / name).write_bytes((tmp_path / name).read_bytes())
    records.close()
    with closing(Records(str(killed / "state.db"))) as records:
        assert records.get("thing", "999") == b"only in the log"


def test_what_is_undone_is_not_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(Records(str(path))) as records:

        def failing(ident: str) -> None:
            with records.transaction():
                records.put("thing", ident, b"1")
                raise KeyError

        with pytest.raises(KeyError):
            failing("outer")
        with records.transaction():
            records.put("thing", "kept", b"1")
            with pytest.raises(KeyError):
                failing("inner")
    told = journal.read(str(tmp_path / "state.journal"))
    assert told is not None
    assert {key for _, _, key in told.rows} == {"kept"}


def test_the_journal_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(Records(str(path))) as records:
        for number in range(100):
            records.put("thing", "same", bytes([number]) * 100_000)
        assert (tmp_path / "state.journal").stat().st_size < 5 << 20


def test_a_newer_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    fill(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="written by a newer version of Wherry"):
        Records(str(path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state.db", "state.journal"]


def test_idents_may_be_digests(tmp_path: Path) -> None:
    digest = sha256(b"")
    with closing(Records(str(tmp_path / "state.db"))) as records:
        records.put("image", digest, b"row")
        records.name("tag", "bb", digest)
    (tmp_path / "state.db").unlink()
    with closing(Records(str(tmp_path / "state.db"))) as records:
        assert records.items("image") == [(str(digest), b"row")]
        assert records.resolve("tag", "bb") == digest
