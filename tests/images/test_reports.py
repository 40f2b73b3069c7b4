"""What is said of layers, against what unpacking them gives, what GNU tar lists, and what is known of small ones."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.images.inside_cases import Layer, bytes_of, random_layers, shelf, stored, unpacked

from wherry.images import inside, reports
from wherry.store.erofs import erofs_works
from wherry.store.snapshot import stacked

pytestmark = pytest.mark.root
SEEDS = range(100, 105)
KINDS = ["overlay", "erofs", "vfs"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "erofs" and not erofs_works(str(tmp_path)):
        pytest.skip("this kernel cannot mount EROFS")
    return str(request.param)


def test_what_is_said_of_random_layers_is_what_unpacking_them_gives(kind: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        tars = random_layers(seed)
        states = unpacked(tars, tmp_path / f"tree{seed}")
        with shelf(kind, tmp_path / f"store{seed}") as snapshotter:
            image = stored(snapshotter, tars)
            said = {entry.path: entry for entry in reports.files(image, snapshotter.contents)}
            assert list(said) == sorted(states[-1], key=lambda path: [os.fsencode(part) for part in path.split("/")]), seed
            for path, status in states[-1].items():
                entry = said[path]
                assert (entry.mode, entry.uid, entry.gid) == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid), (seed, path)
                assert entry.size == (status.st_size if stat.S_ISREG(status.st_mode) else 0), (seed, path)
                if stat.S_ISLNK(status.st_mode):
                    assert entry.target == os.readlink(f"{tmp_path}/tree{seed}{path}")
            whole = sum(bytes_of(tree) for tree in (_alone(data, tmp_path / f"alone{seed}-{at}") for at, data in enumerate(tars)))
            wasted = sum(found.size for found in reports.waste(image, snapshotter.contents))
            assert wasted == whole - bytes_of(states[-1]), seed
            assert reports.layers(image, snapshotter.contents).wasted == wasted
            for number in range(1, len(tars) + 1):
                before = states[number - 2] if number > 1 else {}
                changes = {entry.path: entry.change for entry in reports.files(image, snapshotter.contents, number)}
                gone = {path for path in before if path not in states[number - 1] and _is_top(path, before, states[number - 1])}
                assert {path for path, change in changes.items() if change == "D"} == gone, (seed, number)
                assert {path for path, change in changes.items() if change == "A"} == states[number - 1].keys() - before.keys(), seed
                named = _listed_by_gnu_tar(tars[number - 1])
                own = {path for path, change in changes.items() if change != "D"}
                assert own <= named, (seed, number)
                # vfs has no more than the trees: a directory that a layer names and leaves as it was can't be seen
                assert own == named or kind == "vfs", (seed, number)


def _alone(data: bytes, place: Path) -> dict[str, os.stat_result]:
    return unpacked([data], place)[0]


def _is_top(path: str, before: dict[str, os.stat_result], after: dict[str, os.stat_result]) -> bool:
    """Whether what ``path`` was in is still a directory, so that it went by itself."""
    parent = path.rpartition("/")[0]
    return not parent or (parent in after and stat.S_ISDIR(after[parent].st_mode) and stat.S_ISDIR(before[parent].st_mode))


def _listed_by_gnu_tar(data: bytes) -> set[str]:
    listed = subprocess.run(["tar", "-tf", "-", "--quoting-style=literal"], input=data, capture_output=True, check=True).stdout
    return {"/" + name.rstrip("/") for name in listed.decode().splitlines() if ".wh." not in name}


def test_a_hard_link_is_wasted_only_with_its_last_name(kind: str, tmp_path: Path) -> None:
    base = Layer().directory("d").add("d/one", b"x" * 5000).add("d/two", kind=tarfile.LNKTYPE, link="d/one").done()
    first = Layer().directory("d").add("d/.wh.one").done()
    second = Layer().directory("d").add("d/two", b"new").done()
    with shelf(kind, tmp_path / "store") as snapshotter:
        assert list(reports.waste(stored(snapshotter, [base, first]), snapshotter.contents)) == []
        [found] = reports.waste(stored(snapshotter, [base, first, second]), snapshotter.contents)
        assert (found.size, found.layer, found.by, found.change) == (5000, 1, 3, "C")


def test_layers_tell_what_they_did(kind: str, tmp_path: Path) -> None:
    base = Layer().directory("d").add("d/kept", b"1").add("d/old", b"22").add("gone", b"333").done()
    top = Layer().add(".wh.gone").directory("d").add("d/.wh..wh..opq").add("d/kept", b"4444").done()
    with shelf(kind, tmp_path / "store") as snapshotter:
        report = reports.layers(stored(snapshotter, [base, top]), snapshotter.contents)
        figures = [(one.size, one.added, one.changed, one.deleted, one.wasted, one.created_by) for one in report.layers]
        assert figures[0] == (6, 4, 0, 0, 6, "step 1")
        assert (figures[1][1], figures[1][3:]) == (0, (2, 0, "step 2"))
        assert (report.size, report.wasted) == (10, 6)


def test_two_images_differ_in_what_their_containers_see(kind: str, tmp_path: Path) -> None:
    base = (
        Layer().directory("d").add("d/same", b"1").add("d/other", b"one").add("d/kind", b"").add("d/mode", b"").add("gone", b"333").done()
    )
    again = Layer().directory("d").add("d/same", b"1").add("d/other", b"two").add("d/kind", kind=tarfile.SYMTYPE, link="x")
    again.add("d/mode", b"", mode=0o600, uid=5).add("d-new", b"4444")
    with shelf(kind, tmp_path / "store") as snapshotter:
        old, new = stored(snapshotter, [base]), stored(snapshotter, [again.done()])
        found = [
            (one.change, one.path, one.differs, one.size_before, one.size) for one in reports.differences(old, new, snapshotter.contents)
        ]
        assert found == [
            ("C", "/d/kind", ["type"], 0, 0),
            ("C", "/d/mode", ["mode", "owner"], 0, 0),
            ("C", "/d/other", ["content"], 3, 3),
            ("A", "/d-new", None, 0, 4),
            ("D", "/gone", None, 333 // 111, 0),
        ]
        assert list(reports.differences(old, old, snapshotter.contents)) == []


def test_names_that_are_not_text_are_said_exactly(kind: str, tmp_path: Path) -> None:
    data = Layer().add("\udcff\x1b[2J", b"1").add("plain", kind=tarfile.SYMTYPE, link="\udcfe").done()
    with shelf(kind, tmp_path / "store") as snapshotter:
        odd, plain = sorted(reports.files(stored(snapshotter, [data]), snapshotter.contents), key=lambda one: one.type)
        assert (odd.path, odd.raw_path) == ("/\\xff\x1b[2J", "L/8bWzJK")
        assert (plain.path, plain.raw_path, plain.target) == ("/plain", "", "\\xfe")


def test_a_layer_written_by_a_container_is_looked_into_where_it_lies(tmp_path: Path) -> None:
    base = Layer().directory("d").add("d/old", b"22").add("e", b"333").done()
    with shelf("overlay", tmp_path / "store") as snapshotter:
        image = stored(snapshotter, [base])
        upper = Path(snapshotter.prepare("run", image.chain_ids[0]).upper or "")
        (upper / "d").mkdir()
        os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")
        (upper / "d" / "new").write_bytes(b"x")
        os.mknod(upper / "e", stat.S_IFCHR, 0)
        facts = snapshotter.capture("run")
        layers = [snapshotter.contents(name) for name in (image.chain_ids[0], stacked(image.chain_ids[0], facts.diff_id))]
        changes = {place.path: place.change(2) for place in inside.walk(layers) if place.path}
        assert changes == {b"d": "C", b"d/new": "A", b"d/old": "D", b"e": "D"}
