from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests import forked

from wherry.errors import Conflict, Internal, InvalidRequest, NotFound, NotSupported
from wherry.store.records import Records
from wherry.volumes.service import ANONYMOUS, Volumes


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(str(tmp_path / "state.db"))
    yield records
    records.close()


@pytest.fixture
def volumes(records: Records, tmp_path: Path) -> Volumes:
    return Volumes(records, str(tmp_path / "volumes"))


def nobody(name: str) -> list[str]:
    return []


def test_a_volume_is_a_directory_with_facts(volumes: Volumes) -> None:
    volume = volumes.create("data", labels={"a": "b"})
    assert volume.mountpoint.endswith("/volumes/data/_data")
    assert os.stat(volume.mountpoint).st_mode & 0o777 == 0o755
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", volume.created_at)
    assert (volume.driver, volume.scope, volume.options, volume.is_anonymous) == ("local", "local", None, False)
    assert volumes.get("data") == volume
    assert volumes.path("data") == volume.mountpoint
    assert volumes.exists("data")


def test_creating_an_existing_volume_returns_it_with_its_content(volumes: Volumes) -> None:
    first = volumes.create("data")
    Path(first.mountpoint, "f").write_text("x")
    assert volumes.create("data", labels={"other": "1"}) == first
    assert Path(first.mountpoint, "f").read_text() == "x"


def test_a_volume_without_name_is_anonymous(volumes: Volumes) -> None:
    volume = volumes.create(labels={"a": "b"})
    assert re.fullmatch("[0-9a-f]{64}", volume.name)
    assert volume.labels == {"a": "b", ANONYMOUS: ""}
    assert volume.is_anonymous


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".hidden", "rel/path", "x" * 256, "a\nb", "-x"])
def test_a_name_that_could_be_a_path_is_refused_in_dockers_words(volumes: Volumes, name: str) -> None:
    with pytest.raises(InvalidRequest, match="includes invalid characters for a local volume name"):
        volumes.create(name)


def test_a_short_name_an_unknown_driver_and_an_unknown_option_have_their_messages(volumes: Volumes) -> None:
    with pytest.raises(InvalidRequest, match="create a: volume name is too short, names should be at least two alphanumeric characters"):
        volumes.create("a")
    with pytest.raises(NotFound, match='create data: error looking up volume plugin nosuch: plugin "nosuch" not found'):
        volumes.create("data", driver="nosuch")
    with pytest.raises(InvalidRequest, match='create data: invalid option: "bogus"'):
        volumes.create("data", options={"bogus": "1"})
    with pytest.raises(InvalidRequest, match='create data: missing required option: "device"'):
        volumes.create("data", options={"type": "tmpfs"})
    with pytest.raises(NotSupported, match="type=nfs"):
        volumes.create("data", options={"type": "nfs", "device": ":/x", "o": "addr=1.2.3.4"})
    with pytest.raises(NotSupported, match="o=bind,suid"):
        volumes.create("data", options={"type": "none", "device": "/", "o": "bind,suid"})
    assert volumes.list() == []


def test_a_bind_volume_leads_to_its_device_and_removing_it_leaves_the_device(volumes: Volumes, tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device/f").write_text("x")
    options = {"type": "none", "o": "bind", "device": str(tmp_path / "device")}
    volume = volumes.create("data", options=options)
    assert volume.options == options
    assert volumes.path("data") == str(tmp_path / "device")
    volumes.remove("data", in_use=nobody)
    assert (tmp_path / "device/f").exists()


def test_removing_takes_the_content_and_never_what_a_symlink_names(volumes: Volumes, tmp_path: Path) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/f").write_text("x")
    path = Path(volumes.create("data").mountpoint)
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/link").symlink_to(tmp_path / "canary")
    volumes.remove("data", in_use=nobody)
    assert os.listdir(tmp_path / "volumes") == [".leaving"]
    assert os.listdir(tmp_path / "volumes/.leaving") == []
    assert (tmp_path / "canary/f").read_text() == "x"


def test_removing_a_used_or_absent_volume_has_dockers_message(volumes: Volumes) -> None:
    volumes.create("vv2")
    with pytest.raises(Conflict, match=re.escape("remove vv2: volume is in use - [c1, c2]")):
        volumes.remove("vv2", force=True, in_use=lambda name: ["c1", "c2"])
    with pytest.raises(NotFound, match="get nope: no such volume"):
        volumes.remove("nope", in_use=nobody)
    volumes.remove("nope", force=True, in_use=nobody)
    with pytest.raises(NotFound, match="get nope: no such volume"):
        volumes.get("nope")


def test_list_is_sorted_and_filtered(volumes: Volumes) -> None:
    for name, labels in (("web-b", {"env": "x", "k": ""}), ("web-a", {"env": "y"}), ("db", None)):
        volumes.create(name, labels=labels)

    def names(filters: dict[str, list[str]]) -> list[str]:
        return [volume.name for volume in volumes.list(filters, lambda name: ["c"] if name == "db" else [])]

    assert names({}) == ["db", "web-a", "web-b"]
    assert names({"name": ["web"]}) == ["web-a", "web-b"]
    assert names({"name": ["^d", "b$"]}) == ["db", "web-b"]
    assert names({"label": ["env"]}) == ["web-a", "web-b"]
    assert names({"label": ["env=x", "k"]}) == ["web-b"]
    assert names({"driver": ["local"]}) == ["db", "web-a", "web-b"]
    assert names({"driver": ["other"]}) == []
    assert names({"dangling": ["true"]}) == ["web-a", "web-b"]
    assert names({"dangling": ["0"]}) == ["db"]
    with pytest.raises(InvalidRequest, match=re.escape("invalid filter 'dangling=[x]'")):
        names({"dangling": ["x"]})
    with pytest.raises(InvalidRequest, match="invalid filter 'bogus'"):
        names({"bogus": ["1"]})


def test_prune_takes_unused_anonymous_volumes_and_with_all_the_named_ones(volumes: Volumes) -> None:
    anonymous = volumes.create()
    Path(anonymous.mountpoint, "f").write_bytes(b"12345")
    used = volumes.create()
    volumes.create("named")
    volumes.create("kept", labels={"keep": "1"})

    def in_use(name: str) -> list[str]:
        return ["c"] if name == used.name else []

    pruned = volumes.prune(in_use=in_use)
    assert (pruned.deleted, pruned.reclaimed_bytes) == ([anonymous.name], 5)
    assert volumes.prune({"all": ["true"], "label!": ["keep"]}, in_use=in_use).deleted == ["named"]
    assert [volume.name for volume in volumes.list()] == sorted([used.name, "kept"])


def test_a_start_ends_what_was_begun_and_makes_lost_directories_again(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.create("data")
    os.rmdir(volume.mountpoint)
    (tmp_path / "volumes/begun/_data").mkdir(parents=True)
    (tmp_path / "volumes/.leaving/0.1/_data").mkdir(parents=True)
    (tmp_path / "volumes/.leaving/0.1/_data/file").write_text("removed in part")
    volumes.sweep()
    volumes.sweep()
    assert sorted(os.listdir(tmp_path / "volumes")) == [".leaving", "data"]
    assert os.listdir(tmp_path / "volumes/.leaving") == []
    assert os.path.isdir(volume.mountpoint)


def test_a_volume_whose_row_is_lost_is_one_again_with_its_data(volumes: Volumes, records: Records, tmp_path: Path) -> None:
    for name in ("data", "found"):
        Path(volumes.create(name).mountpoint, "file").write_text(name)
        records.delete("volume", name)
    (tmp_path / "volumes/no name").mkdir()
    (tmp_path / "volumes/no name/file").write_text("whose?")
    volumes.sweep()
    assert [volume.name for volume in volumes.list()] == ["data", "found"]
    assert Path(volumes.get("data").mountpoint, "file").read_text() == "data"
    records.delete("volume", "found")
    findings = {finding.subject: finding for finding in volumes.check()}
    assert {subject: finding.remedy for subject, finding in findings.items()} == {
        "volumes/found": "make it a volume again",
        "volumes/no name": "set it aside",
    }
    for finding in findings.values():
        assert finding.mend is not None
        finding.mend()
    assert list(volumes.check()) == []
    assert Path(volumes.get("found").mountpoint, "file").read_text() == "found"
    assert [path.read_text() for path in tmp_path.glob("quarantine/volume-no name*/file")] == ["whose?"]


def test_a_volume_whose_removal_died_before_it_was_recorded_is_whole(tmp_path: Path) -> None:
    def die_removing() -> None:
        records = Records(str(tmp_path / "state.db"))
        volumes = Volumes(records, str(tmp_path / "volumes"))
        Path(volumes.create("data", labels={"of": "mine"}).mountpoint, "file").write_text("kept")
        records.watch("volume", lambda ident, body: os.kill(os.getpid(), signal.SIGKILL))
        volumes.remove("data", in_use=nobody)

    assert forked.exit_code(die_removing) == -signal.SIGKILL
    assert os.listdir(tmp_path / "volumes") == [".leaving"]
    records = Records(str(tmp_path / "state.db"))
    volumes = Volumes(records, str(tmp_path / "volumes"))
    volumes.sweep()
    volume = volumes.get("data")
    assert volume.labels == {"of": "mine"}
    assert Path(volume.mountpoint, "file").read_text() == "kept"
    records.close()


def test_a_volume_made_while_one_of_its_name_is_removed_is_another(volumes: Volumes) -> None:
    former = volumes.create("data").mountpoint
    for number in range(5000):
        Path(former, str(number)).touch()
    with ThreadPoolExecutor() as pool:
        removal = pool.submit(volumes.remove, "data", in_use=nobody)
        while volumes.exists("data"):
            pass
        made = Path(volumes.create("data").mountpoint, "file")
        made.write_text("new")
        removal.result()
    assert made.read_text() == "new"


@pytest.mark.root
def test_a_volume_that_cannot_be_removed_stays_one(volumes: Volumes) -> None:
    path = Path(volumes.create("data", labels={"of": "mine"}).mountpoint, "file")
    path.write_text("kept")
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        with pytest.raises(Internal, match=r"remove data: .*file"):
            volumes.remove("data", in_use=nobody)
        assert volumes.get("data").labels == {"of": "mine"}
        assert path.read_text() == "kept"
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    volumes.remove("data", in_use=nobody)
    assert volumes.list() == []
