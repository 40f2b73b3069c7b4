from __future__ import annotations

import resource
from pathlib import Path

import pytest

from wherry.networks.ledger import Ledger
from wherry.networks.record import PublicationRecord, SandboxRecord

RECORD = SandboxRecord(
    container_id="c1",
    name="web",
    publications=[PublicationRecord(protocol="tcp", port=80, host_ip="0.0.0.0", host_port=8080)],
    target="172.17.0.2",
)


def opened(folder: Path) -> Ledger:
    ledger = Ledger(str(folder))
    ledger.load()
    return ledger


def test_a_record_is_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "sandboxes")
    ledger.keep(SandboxRecord(container_id="c1", name="old"))
    ledger.keep(RECORD)
    ledger = Ledger(str(tmp_path / "sandboxes"))
    assert ledger.load() == [RECORD]
    ledger.forget("c1")
    ledger.forget("c1")
    assert ledger.load() == []


def test_what_is_unreadable_is_left_out_and_hides_nothing(tmp_path: Path) -> None:
    opened(tmp_path).keep(RECORD)
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'+{"container_id": "x"\n+{"container_id": "c2", "name": "two"}\n-c9\n+{"torn')
    ledger = Ledger(str(tmp_path))
    assert [record.container_id for record in ledger.load()] == ["c1", "c2"]
    assert (tmp_path / "ledger").read_bytes().count(b"\n") == 2


def test_the_file_does_not_grow_with_what_is_gone(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.keep(RECORD)
    for number in range(20_000):
        ledger.keep(SandboxRecord(container_id=f"{number:064}", name="x"))
        ledger.forget(f"{number:064}")
    assert (tmp_path / "ledger").stat().st_size < 300 << 10
    assert Ledger(str(tmp_path)).load() == [RECORD]


def test_a_line_that_has_no_room_leaves_nothing_of_itself(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.keep(RECORD)
    size = (tmp_path / "ledger").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2, hard))  # a part of the next line has room
    try:
        with pytest.raises(OSError, match="too large"):
            ledger.keep(SandboxRecord(container_id="c2", name="two"))
        ledger.forget("c1")  # never fails
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "ledger").stat().st_size == size
    ledger.keep(SandboxRecord(container_id="c3", name="three"))
    assert [record.container_id for record in Ledger(str(tmp_path)).load()] == ["c1", "c3"]
