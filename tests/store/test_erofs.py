from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from wherry.kernel import mount
from wherry.spec.digest import Digest, chain_id, sha256
from wherry.store import erofs, erofs_mounts
from wherry.store.erofs import Erofs, erofs_works
from wherry.store.layer import NullSink
from wherry.store.overlay import Overlay
from wherry.store.records import Records
from wherry.store.snapshot import SnapshotDamaged, Snapshotter
from wherry.tree.tar import Entry, Kind

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import BASE, Make, Suite, directory, facts, file, layer, mounted


def mounts_below(path: Path) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file if line.split()[4].startswith(f"{path}/")]


class TestErofs(Suite):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        if not erofs_works(str(tmp_path)):
            pytest.skip("this kernel cannot mount EROFS")
        made: list[Erofs] = []

        def make(records: Records) -> Erofs:
            made.append(Erofs(str(tmp_path), records, str(tmp_path / "mounts")))
            return made[-1]

        yield make
        for one in made:
            one.close()
        assert mounts_below(tmp_path) == []

    def test_a_tar_comes_back_byte_for_byte(self, snapshots: Snapshotter, base: Digest) -> None:
        odd = BASE + b"bytes behind the end"
        diff_id = snapshots.apply(None, base, io.BytesIO(odd)).diff_id
        out = io.BytesIO()
        assert snapshots.pack(chain_id([base, diff_id]), out).diff_id == diff_id == sha256(odd)
        assert out.getvalue() == odd

    def test_the_same_layer_on_another_parent_takes_no_more_room(self, snapshots: Snapshotter, base: Digest, tmp_path: Path) -> None:
        snapshots.apply(None, base, io.BytesIO(BASE))
        assert {path.stat().st_ino for path in tmp_path.glob("snapshots/*/tar")} == {next(tmp_path.glob("snapshots/*/tar")).stat().st_ino}
        snapshots.remove(chain_id([base, base]))
        with mounted(snapshots.view(base)) as root:
            assert Path(root, "etc/passwd").read_bytes() == b"root"

    def test_an_adopted_tar_is_not_copied(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        (tmp_path / "tar").write_bytes(BASE)
        snapshots.adopt(sha256(BASE), None, str(tmp_path / "tar"), sha256(BASE))
        assert (tmp_path / "tar").stat().st_nlink == 2

    def test_preparing_is_quick_while_what_it_stands_on_stays_mounted(self, snapshots: Snapshotter, base: Digest, make: Make) -> None:
        assert snapshots.is_quick(None)
        assert not snapshots.is_quick(base)
        snapshots.prepare("c1", base)
        assert snapshots.is_quick(base)
        snapshots.close()  # unmounts
        assert not snapshots.is_quick(base)
        snapshots.prepare("c2", base)
        assert snapshots.is_quick(base)

    def test_mounts_are_shared_and_go_with_their_layer(self, snapshots: Snapshotter, base: Digest, tmp_path: Path) -> None:
        assert mounts_below(tmp_path) == []
        snapshots.prepare("c1", base)
        snapshots.prepare("c2", base)
        snapshots.view(base)
        assert len(mounts_below(tmp_path)) == 1
        snapshots.remove("c1")
        snapshots.remove("c2")
        snapshots.remove(base)
        assert mounts_below(tmp_path) == []
        assert os.listdir(tmp_path / "mounts") == []

    def test_idle_mounts_are_few_and_those_in_use_stay(
        self, snapshots: Snapshotter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(erofs_mounts, "_IDLE", 2)
        names = [snapshots.apply(None, None, io.BytesIO(layer(file(f"f{number}")))).diff_id for number in range(8)]
        for number in range(4):
            snapshots.prepare(f"c{number}", names[number])
        for name in names[4:]:
            snapshots.view(name)
        assert len(mounts_below(tmp_path)) == 4 + 2 + 1  # in use, idle, the newest
        for number, name in enumerate(names):
            with mounted(snapshots.view(name)) as root:
                assert os.listdir(root) == [f"f{number}"]

    def test_a_new_daemon_mounts_anew(self, snapshots: Snapshotter, base: Digest, make: Make, records: Records, tmp_path: Path) -> None:
        with mounted(snapshots.prepare("c1", base)) as root:
            again = make(records)
            again.sweep()
            assert mounts_below(tmp_path) == []
            assert Path(root, "etc/passwd").read_bytes() == b"root"
            again.rootfs("c1")
            assert len(mounts_below(tmp_path)) == 1

    def test_an_image_of_127_layers_works(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        super().test_an_image_of_127_layers_works(snapshots, tmp_path)
        assert len(mounts_below(tmp_path)) == 1

    def test_merged_layers_show_what_overlayfs_shows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(erofs, "_MERGE_FROM", 2)
        for seed in range(12):
            chance = random.Random(seed)
            shown = []
            tars = [random_layer(chance) for _ in range(6)]
            with_directory = chance.randrange(7)  # a layer in the middle that a container wrote
            for name in ("erofs", "overlay"):
                with snapshotter(name, tmp_path / f"{seed}-{name}") as snapshots:
                    shown.append(stack_of(snapshots, tars, with_directory))
            assert shown[0] == shown[1], seed


class TestErofsByLoopDevices:
    """Before Linux 6.12 a file can't be mounted: some of the suite where the kernel says so."""

    records, snapshots, base, make = Suite.records, Suite.snapshots, Suite.base, TestErofs.make
    test_any_archive_shows_what_gnu_tar_unpacks = Suite.test_any_archive_shows_what_gnu_tar_unpacks
    test_a_second_layer_hides_deletes_and_replaces = Suite.test_a_second_layer_hides_deletes_and_replaces
    test_a_captured_container_goes_on, change = Suite.test_a_captured_container_goes_on, Suite.change
    test_an_image_of_127_layers_works = Suite.test_an_image_of_127_layers_works

    @pytest.fixture(autouse=True)
    def no_files(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        real = mount.new_mount
        looped: list[str] = []

        def old(kind: str, options: list[tuple[str, str | None]], *, source: str, attributes: int) -> int:
            if kind == "erofs" and not source.startswith("/dev/loop"):
                raise OSError(errno.ENOTBLK, "a block device is required")
            looped.append(source)
            return real(kind, options, source=source, attributes=attributes)

        monkeypatch.setattr(mount, "new_mount", old)
        yield
        assert looped


@contextmanager
def snapshotter(name: str, root_dir: Path) -> Iterator[Snapshotter]:
    root_dir.mkdir()
    records = Records(str(root_dir / "state.db"))
    snapshots = Erofs(str(root_dir), records, f"{root_dir}/mounts") if name == "erofs" else Overlay(str(root_dir), records)
    try:
        yield snapshots
    finally:
        snapshots.close()
        records.close()


def stack_of(snapshots: Snapshotter, tars: list[bytes], with_directory: int) -> dict[str, tuple[object, ...]]:
    """What a container sees of the layers, and of one more that another container wrote before that number."""
    top = None
    for number, tar in enumerate(tars):
        if number == with_directory:
            with mounted(snapshots.prepare("c", top)) as root:
                Path(root, "written").write_bytes(b"w")
                for path in (f"{root}/written", root):
                    os.utime(path, (1, 1))
            snapshots.commit("c", f"layer-{number}")
            top = f"layer-{number}"
        snapshots.apply(f"tar-{number}", top, io.BytesIO(tar))
        top = f"tar-{number}"
    with mounted(snapshots.prepare("c1", top)) as root:
        return {path: without_links(fact) for path, fact in facts(root).items()}


def without_links(fact: tuple[object, ...]) -> tuple[object, ...]:
    """Overlayfs does not count the links of directories."""
    return (*fact[:4], *fact[5:]) if str(fact[0]).startswith("0o4") else fact


def random_layer(chance: random.Random) -> bytes:
    """Few names and much going on under them."""
    entries: list[tuple[Entry, bytes] | Entry] = [directory("./")]
    made: list[str] = []
    for _ in range(chance.randrange(1, 12)):
        path = "/".join(chance.choice("abc") for _ in range(chance.randrange(1, 4)))
        parent = path.rpartition("/")[0]
        if any(one == path or (one != path and path.startswith(f"{one}/")) or one.startswith(f"{path}/") for one in made):
            continue
        prefix = f"{parent}/" if parent else ""
        match chance.randrange(7):
            case 0:
                entries.append(file(f"{prefix}.wh.{path[-1]}"))
            case 1:
                entries += [directory(path), file(f"{path}/.wh..wh..opq")]
            case 2 | 3:
                entries.append(directory(path, mode=chance.choice([0o755, 0o700, 0o1777]), uid=chance.randrange(3)))
                continue
            case 4:
                entries.append(Entry(name=path, kind=Kind.SYMLINK, link=chance.choice(["a", "/b/c", "nowhere"])))
            case _:
                entries.append(file(path, bytes([65 + chance.randrange(26)]) * chance.randrange(2000), mode=chance.choice([0o644, 0o4755])))
        made.append(path)
    with_parents: list[tuple[Entry, bytes] | Entry] = []
    known: set[str] = set()
    for one in entries:
        name = (one[0] if isinstance(one, tuple) else one).name.strip("./")
        parts = name.split("/")[:-1]
        for length in range(1, len(parts) + 1):
            above = "/".join(parts[:length])
            if above not in known:
                known.add(above)
                with_parents.append(directory(above))
        if isinstance(one, Entry):
            known.add(name)
        with_parents.append(one)
    return layer(*with_parents)


HARMS: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": lambda path: flip(path),
}


def sparse_tar() -> bytes:
    """One file with a hole, as GNU tar writes it."""
    with tempfile.TemporaryDirectory() as place:
        with open(os.path.join(place, "sparse"), "wb") as made:
            made.seek(1 << 20)
            made.write(b"data")
            made.truncate(3 << 20)
        command = ["tar", "-C", place, "--sparse", "--format=posix", "--mtime=@1", "-cf", "-", "sparse"]
        return subprocess.run(command, check=True, capture_output=True).stdout


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Erofs]:
    if not erofs_works(str(tmp_path)):
        pytest.skip("this kernel cannot mount EROFS")
    with closing(Records(str(tmp_path / "state.db"))) as records, closing(Erofs(str(tmp_path), records, str(tmp_path / "mounts"))) as store:
        yield store


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_index_is_built_again_when_it_is_needed(store: Erofs, tmp_path: Path, harm: str) -> None:
    base = store.apply(None, None, io.BytesIO(BASE)).diff_id
    [index] = tmp_path.glob("snapshots/*/index")
    whole = index.read_bytes()
    HARMS[harm](index)
    with mounted(store.view(base)) as root:
        assert Path(root, "etc/passwd").read_text() == "root"
    assert index.read_bytes() == whole
    assert list(store.check(quick=False)) == []


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_index_is_built_again_when_it_is_looked_into(store: Erofs, tmp_path: Path, harm: str) -> None:
    base = store.apply(None, None, io.BytesIO(BASE)).diff_id
    [index] = tmp_path.glob("snapshots/*/index")
    whole = index.read_bytes()
    HARMS[harm](index)
    with store.contents(base) as contents:
        assert [name for name, _ in contents.children(contents.root())] == [b"bin", b"etc", b"hard", b"link", b"opt"]
    assert index.read_bytes() == whole


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_tar_is_found_and_the_layer_comes_again(store: Erofs, tmp_path: Path, harm: str) -> None:
    base = store.apply(None, None, io.BytesIO(BASE)).diff_id
    top = chain_id([base, store.apply(None, base, io.BytesIO(layer(file("top", b"top")))).diff_id])
    [tar] = [path for path in tmp_path.glob("snapshots/*/tar") if path.read_bytes() == BASE]
    HARMS[harm](tar)
    [finding] = store.check(quick=False)
    assert finding.subject == f"layer {base}"
    assert "tar" in finding.fact
    assert finding.mend is not None
    if harm not in ("zeroed", "flipped"):  # else only the digest tells
        with pytest.raises(SnapshotDamaged, match=base):
            store.view(top)
    finding.mend()
    assert not store.exists(base)
    assert [path.read_bytes() != BASE for path in tmp_path.glob("quarantine/*/tar")] == ([] if harm == "deleted" else [True])
    with pytest.raises(SnapshotDamaged, match=f"layer {base} was set aside"):
        store.view(top)
    assert [found.mend for found in store.check(quick=False)] == [None]
    store.apply(base, None, io.BytesIO(BASE), expected=base)
    assert list(store.check(quick=False)) == []
    with mounted(store.view(top)) as root:
        assert sorted(os.listdir(root)) == ["bin", "etc", "hard", "link", "opt", "top"]


@pytest.mark.parametrize("harm", HARMS)
def test_harmed_sparse_files_are_unpacked_again(store: Erofs, tmp_path: Path, harm: str) -> None:
    base = store.apply(None, None, io.BytesIO(sparse_tar())).diff_id
    [sparse] = tmp_path.glob("snapshots/*/sparse")
    whole = sparse.read_bytes()
    HARMS[harm](sparse)
    if sparse.exists() and sparse.read_bytes() == whole:
        pytest.skip("nothing was harmed")
    for finding in store.check(quick=False):
        assert finding.mend is not None
        finding.mend()
    assert sparse.read_bytes() == whole
    with mounted(store.view(base)) as root:
        assert Path(root, "sparse").read_bytes().rstrip(b"\0").endswith(b"data")


def test_a_harmed_merged_index_is_made_again(store: Erofs, tmp_path: Path) -> None:
    name = None
    for number in range(12):
        diff_id = store.apply(None, name, io.BytesIO(layer(file(f"f{number}", b"%d" % number)))).diff_id
        name = str(chain_id([Digest(name), diff_id])) if name else str(diff_id)
        name = next(info.name for info in store.items() if info.name not in {other.parent for other in store.items()})
    assert name is not None
    store.view(name)
    [merged] = tmp_path.glob("snapshots/*/merged")
    store.close()
    flip(merged)
    [finding] = store.check(quick=True)
    assert "merged" in finding.fact
    with mounted(store.view(name)) as root:
        assert len(os.listdir(root)) == 12
    assert list(store.check(quick=True)) == []


def test_a_harmed_directory_layer_is_found_and_comes_again(store: Erofs, tmp_path: Path) -> None:
    def commit(key: str) -> str:
        upper = store.prepare(key, None).upper
        assert upper is not None
        (Path(upper) / "made").write_text("made")
        os.utime(Path(upper) / "made", (1, 1))
        os.utime(upper, (1, 1))
        name = str(store.pack(key, NullSink()).diff_id)
        store.commit(key, name)
        return name

    name = commit("one")
    [made] = tmp_path.glob("snapshots/*/d/made")
    made.write_text("mad3")
    os.utime(made, (1, 1))
    [finding] = store.check(quick=False)
    assert finding.subject == f"layer {name}"
    assert finding.mend is not None
    finding.mend()
    assert not store.exists(name)
    assert commit("two") == name
    assert list(store.check(quick=False)) == []
    assert [path.read_text() for path in tmp_path.glob("snapshots/*/d/made")] == ["made"]


def test_a_directory_of_no_snapshot_is_found(store: Erofs, tmp_path: Path) -> None:
    (tmp_path / "snapshots/left").mkdir()
    [finding] = store.check(quick=True)
    assert finding.subject == "snapshots/left"
    assert finding.mend is not None
    finding.mend()
    assert list(store.check(quick=True)) == []
