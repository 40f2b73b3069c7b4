from __future__ import annotations

from pathlib import Path

from wherry.networks.ledger import Ledger
from wherry.networks.record import PublicationRecord, SandboxRecord

RECORD = SandboxRecord(
    container_id="c1",
    name="web",
    publications=[PublicationRecord(protocol="tcp", port=80, host_ip="0.0.0.0", host_port=8080)],
    target="172.17.0.2",
)


def test_a_record_is_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "sandboxes"))
    ledger.keep(SandboxRecord(container_id="c1", name="old"))
    ledger.keep(RECORD)
    assert Ledger(str(tmp_path / "sandboxes")).load() == [RECORD]
    ledger.forget("c1")
    ledger.forget("c1")
    assert ledger.load() == []


def test_an_unreadable_record_is_removed(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.keep(RECORD)
    (tmp_path / "torn.json").write_text('{"container_id": "x"')
    (tmp_path / "half.json~").write_text("{}")
    assert ledger.load() == [RECORD]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c1.json"]
