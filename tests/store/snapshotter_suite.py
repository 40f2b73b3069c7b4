"""What every Snapshotter does.  A test module inherits `Suite` and provides the fixture ``make``."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.security import archives

from wherry.kernel import mount
from wherry.spec.digest import Digest, chain_id, sha256
from wherry.spec.mounts import Rootfs
from wherry.store.layer import DigestMismatch, NullSink
from wherry.store.records import Records
from wherry.store.snapshot import Change, ChangeKind, SnapshotExists, SnapshotInfo, SnapshotInUse, SnapshotMissing, Snapshotter
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_writer import Writer

Make = Callable[[Records], Snapshotter]


def layer(*entries: tuple[Entry, bytes] | Entry) -> bytes:
    out = io.BytesIO()
    writer = Writer(out)
    for one in entries:
        entry, data = one if isinstance(one, tuple) else (one, b"")
        entry.size = entry.size or len(data)
        writer.add(entry, data)
    writer.finish()
    return out.getvalue()


def file(name: str, data: bytes = b"", **fields: Any) -> tuple[Entry, bytes]:
    return Entry(name=name, mtime_ns=1_700_000_000_000_000_000, **fields), data


def directory(name: str, **fields: Any) -> Entry:
    return Entry(name=name, kind=Kind.DIRECTORY, mtime_ns=1_700_000_000_000_000_000, **{"mode": 0o755, **fields})


BASE = layer(
    directory("etc"),
    file("etc/passwd", b"root", mode=0o600),
    file("etc/shadow", b"secret"),
    directory("opt/old", mode=0o2770, uid=5, gid=6),
    file("opt/old/a", b"a"),
    file("opt/old/b", b"b"),
    Entry(name="link", kind=Kind.SYMLINK, link="etc/passwd"),
    Entry(name="hard", kind=Kind.HARDLINK, link="etc/shadow"),
    file(
        "bin/su",
        b"su",
        mode=0o4755,
        xattrs={"security.capability": bytes.fromhex("0100000200040000000000000000000000000000"), "user.a": b"1"},
    ),
)
TOP = layer(
    file("etc/.wh.shadow"),
    directory("opt/old", mode=0o755),
    file("opt/old/.wh..wh..opq"),
    file("opt/old/new", b"new"),
    file("etc/passwd", b"root2"),
)


STALLED_UNPACKING = """
import importlib, io, sys, time
from wherry.store.records import Records

class Source:
    rest = io.BytesIO(sys.stdin.buffer.read())

    def read(self, size, /):
        data = self.rest.read(700)
        if not data:
            print("ready", flush=True)
            time.sleep(60)
        return data

root, name, *more = sys.argv[1:]
kind = getattr(importlib.import_module(f"wherry.store.{name}"), name.title())
kind(root, Records(f"{root}/state.db"), *more).apply(None, None, Source())
"""


@contextmanager
def mounted(rootfs: Rootfs) -> Iterator[str]:
    """The root as a container sees it, as a path that exists only through this process's descriptor."""
    if not rootfs.lower and rootfs.upper:
        yield rootfs.upper
    elif len(rootfs.lower) == 1 and rootfs.upper is None:
        yield rootfs.lower[0]
    else:
        fd = mount.overlay(list(rootfs.lower), rootfs.upper, rootfs.work)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)


def listing(root: str) -> set[str]:
    found = set()
    for path, directories, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(path, name), root) for name in directories + files}
    return found


def facts(root: str) -> dict[str, tuple[object, ...]]:
    """Everything a program could see of a tree, by path."""
    found: dict[str, tuple[object, ...]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for path, directories, files in list(os.walk(root)):
        for name in [*directories, *files]:
            full = os.path.join(path, name)
            try:
                status = os.lstat(full)
            except FileNotFoundError:
                continue  # overlayfs lists a whiteout where it hides nothing
            kind = stat.S_IFMT(status.st_mode)
            content: object = None
            if kind == stat.S_IFLNK:
                content = os.readlink(full)
            elif kind == stat.S_IFREG:
                content = status.st_size, sha256(Path(full).read_bytes())
            attributes = {} if kind == stat.S_IFLNK else {key: os.getxattr(full, key) for key in os.listxattr(full)}
            inner = os.path.relpath(full, root)
            owner = status.st_uid, status.st_gid
            found[inner] = (oct(status.st_mode), owner, status.st_mtime_ns, status.st_rdev, status.st_nlink, content, attributes)
            if kind != stat.S_IFDIR:
                names.setdefault((status.st_dev, status.st_ino), []).append(inner)
    links = {path: sorted(group) for group in names.values() for path in group if len(group) > 1}
    return {path: (*fact, links.get(path)) for path, fact in found.items()}


def furnished(root: Path) -> None:
    """A tree with one of everything that a tar can hold."""
    root.mkdir()
    deep = root / "d" / ("long" * 40) / ("name" * 50)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    (root / "many").mkdir()
    for number in range(300):
        (root / "many" / f"entry-{number:03}-{'x' * (number % 90)}").write_bytes(bytes([number % 251]) * number * 7)
    (root / "empty").write_bytes(b"")
    (root / "block").write_bytes(b"b" * 512)
    (root / "large").write_bytes(bytes(range(256)) * 4000)
    (root / "gr\u00fc\u00df \u4e16\u754c").write_bytes(b"utf-8")
    os.close(os.open(os.fsencode(root) + b"/latin-\xe9", os.O_CREAT | os.O_WRONLY))
    os.symlink("x" * 600, root / "long-link")
    os.symlink("many", root / "link")
    os.link(root / "large", root / "hard-1")
    os.link(root / "large", root / "many" / "hard-2")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.mkfifo(root / "pipe", 0o640)
    with open(root / "sparse", "wb") as file:
        file.truncate(3_000_000)
        for offset in (0, 1_000_000, 2_345_678):
            file.seek(offset)
            file.write(b"data" * 3000)
    with open(root / "all-hole", "wb") as file:
        file.truncate(100_001)
    os.setxattr(root / "block", "user.note", b"v" * 3000)
    os.setxattr(root / "block", "user.other", b"")
    os.setxattr(root / "large", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(root / "many", "user.on-a-directory", b"1")
    os.chown(root / "block", 70000, 4_000_000_000)
    os.chown(root / "link", 12, 34, follow_symlinks=False)
    os.chmod(root / "large", 0o4755)
    os.chmod(root / "many", 0o3771)
    os.utime(root / "empty", ns=(0, -5_000_000_000))
    os.utime(root / "block", ns=(0, 5_000_000_000_123_456_789))


def _below(found: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Without the root directory, which no archive here describes."""
    return {path: fact for path, fact in found.items() if path not in ("", ".")}


@st.composite
def drawn_archives(draw: st.DrawFn) -> list[tuple[Entry, bytes] | Entry]:
    """Directories, then anything in them, some of it twice and as something else the second time."""
    folders = ["a", "a/b", "a/b/" + "c" * 120, "é"]
    times = st.sampled_from([0, 1, 1_700_000_000_123_456_789, -5 * 10**9])
    owners = st.sampled_from([0, 5, 70_000, 4_000_000_000])
    made: list[tuple[Entry, bytes] | Entry] = [
        Entry(name=name, kind=Kind.DIRECTORY, mode=draw(st.sampled_from([0o755, 0o1777, 0o2750])), mtime_ns=draw(times)) for name in folders
    ]
    known: list[str] = []
    for _ in range(draw(st.integers(0, 12))):
        name = draw(st.sampled_from(["", *(f"{folder}/" for folder in folders)])) + draw(st.sampled_from(["x", "y", "z" * 101, "ü b"]))
        kind = draw(st.sampled_from([Kind.FILE, Kind.FILE, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO, Kind.CHARACTER]))
        fields: dict[str, Any] = {"uid": draw(owners), "gid": draw(owners), "mtime_ns": draw(times), "mode": draw(st.integers(0, 0o777))}
        if kind is Kind.HARDLINK:
            others = [other for other in known if other != name]
            if not others:
                continue
            made.append(Entry(name=name, kind=kind, link=draw(st.sampled_from(others))))
        elif kind is Kind.FILE:
            fields["xattrs"] = draw(st.sampled_from([{}, {"user.a": b"1"}, {"user.a": b"1" * 300, "user.b": b""}]))
            made.append((Entry(name=name, **fields), bytes(draw(st.sampled_from([0, 1, 511, 512, 513, 9000])))))
        elif kind is Kind.SYMLINK:
            made.append(Entry(name=name, kind=kind, link=draw(st.sampled_from(["x", "../y", "/etc/passwd", "l" * 200])), **fields))
        else:
            made.append(Entry(name=name, kind=kind, device=(1, 3) if kind is Kind.CHARACTER else (0, 0), **fields))
        known.append(name)
    return made


@pytest.mark.root
class Suite:
    @pytest.mark.parametrize("form", ["gnu", "posix", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "oldgnu"])
    def test_a_layer_shows_what_gnu_tar_unpacks(self, snapshots: Snapshotter, tmp_path: Path, form: str) -> None:
        furnished(tmp_path / "source")
        pax = form.startswith("posix")
        tar = ["tar", "--numeric-owner", *(["--xattrs", "--xattrs-include=*"] if pax else [])]
        subprocess.run(
            [*tar, "--sparse", f"--format={form.split()[0]}", *form.split()[1:], "-C", "source", "-cf", "layer.tar", "."],
            cwd=tmp_path,
            check=True,
        )
        (tmp_path / "unpacked").mkdir()
        subprocess.run([*tar, "-C", "unpacked", "--same-owner", "-pxf", "layer.tar"], cwd=tmp_path, check=True)
        with open(tmp_path / "layer.tar", "rb") as file:
            diff_id = snapshots.apply(None, None, file).diff_id
        with mounted(snapshots.view(diff_id)) as root:
            assert facts(root) == facts(str(tmp_path / "unpacked"))
        size = snapshots.usage(diff_id)
        snapshots.remove(diff_id)
        assert snapshots.adopt(diff_id, None, str(tmp_path / "layer.tar"), diff_id).size_bytes == size
        with mounted(snapshots.view(diff_id)) as root:
            assert facts(root) == facts(str(tmp_path / "unpacked"))

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_archive_shows_what_gnu_tar_unpacks(self, snapshots: Snapshotter, tmp_path: Path, data: st.DataObject) -> None:
        archive = layer(*data.draw(drawn_archives()))
        target = tempfile.mkdtemp(dir=tmp_path)
        kept = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--same-owner", "--delay-directory-restore"]
        command = ["tar", *kept, "-Ppxf", "-", "-C", target]  # -P: a symlink is made at once, not when all else is done
        subprocess.run(command, input=archive, check=True)
        os.utime(target, (0, 0))
        diff_id = snapshots.apply(None, None, io.BytesIO(archive)).diff_id
        with mounted(snapshots.view(diff_id)) as root:
            assert _below(facts(root)) == _below(facts(target))
        snapshots.remove(diff_id)
        shutil.rmtree(target)

    @pytest.fixture
    def tmp_path(self, abyss: Path) -> Path:
        return abyss

    @pytest.fixture
    def records(self, tmp_path: Path) -> Iterator[Records]:
        records = Records(str(tmp_path / "state.db"))
        yield records
        records.close()

    @pytest.fixture
    def snapshots(self, make: Make, records: Records) -> Snapshotter:
        return make(records)

    @pytest.fixture
    def base(self, snapshots: Snapshotter) -> Digest:
        facts = snapshots.apply(None, None, io.BytesIO(BASE))
        assert facts.diff_id == sha256(BASE)
        return facts.diff_id

    def test_a_layer_shows_its_files_with_owner_mode_and_attributes(self, snapshots: Snapshotter, base: Digest) -> None:
        with mounted(snapshots.view(base)) as root:
            assert Path(root, "etc/passwd").read_bytes() == b"root"
            assert os.readlink(f"{root}/link") == "etc/passwd"
            assert os.stat(f"{root}/hard").st_ino == os.stat(f"{root}/etc/shadow").st_ino
            status = os.stat(f"{root}/opt/old")
            assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2770, 5, 6)
            assert status.st_mtime_ns == 1_700_000_000_000_000_000
            assert os.stat(f"{root}/bin/su").st_mode & 0o7777 == 0o4755
            assert os.getxattr(f"{root}/bin/su", "security.capability")[:4] == b"\1\0\0\2"
            assert os.getxattr(f"{root}/bin/su", "user.a") == b"1"

    def test_an_archive_may_end_with_its_last_files_data(self, snapshots: Snapshotter) -> None:
        data = layer(file("a", b"a" * 513))[: -1024 - 511]
        diff_id = snapshots.apply(None, None, io.BytesIO(data)).diff_id
        with mounted(snapshots.view(diff_id)) as root:
            assert Path(root, "a").read_bytes() == b"a" * 513

    def test_a_second_layer_hides_deletes_and_replaces(self, snapshots: Snapshotter, base: Digest) -> None:
        facts = snapshots.apply(None, base, io.BytesIO(TOP))
        with mounted(snapshots.view(chain_id([base, facts.diff_id]))) as root:
            assert listing(root) == {"etc", "etc/passwd", "opt", "opt/old", "opt/old/new", "link", "hard", "bin", "bin/su"}
            assert Path(root, "etc/passwd").read_bytes() == b"root2"

    @pytest.mark.parametrize("between", [(), (file("etc/.wh.passwd"),)])
    def test_a_directory_behind_its_own_whiteout_hides_what_lies_below(
        self, snapshots: Snapshotter, base: Digest, between: tuple[Entry, ...]
    ) -> None:
        top = layer(file("opt/.wh.old"), *between, directory("opt/old", mode=0o711), file("opt/old/new", b"new"))
        diff_id = snapshots.apply(None, base, io.BytesIO(top)).diff_id
        with mounted(snapshots.view(chain_id([base, diff_id]))) as root:
            assert os.listdir(f"{root}/opt/old") == ["new"]
            assert stat.S_IMODE(os.stat(f"{root}/opt/old").st_mode) == 0o711

    def test_a_directory_that_no_entry_tells_of_takes_the_place_of_what_is_none_below(self, snapshots: Snapshotter, base: Digest) -> None:
        top = layer(file("etc/passwd/d/new", b"1"), file("link/new", b"2"), file("opt/new", b"3"))
        diff_id = snapshots.apply(None, base, io.BytesIO(top)).diff_id
        with mounted(snapshots.view(chain_id([base, diff_id]))) as root:
            assert listing(f"{root}/etc/passwd") == {"d", "d/new"}
            assert os.listdir(f"{root}/link") == ["new"]
            assert not os.path.islink(f"{root}/link")
            assert {"new", "old", "old/a"} <= listing(f"{root}/opt")

    @pytest.mark.parametrize("more", [0, 12])
    def test_an_opaque_root_hides_nothing_however_many_layers_there_are(self, snapshots: Snapshotter, base: Digest, more: int) -> None:
        stack = [base]
        for entries in ((file(".wh..wh..opq"), file("new", b"1")), *((file(f"{number}", b"2"),) for number in range(more))):
            stack.append(snapshots.apply(None, chain_id(stack), io.BytesIO(layer(*entries))).diff_id)
        with mounted(snapshots.view(chain_id(stack))) as root:
            assert {"new", "etc/passwd", *(str(number) for number in range(more))} <= listing(root)

    def test_size_counts_files_once_and_the_text_of_symlinks(self, snapshots: Snapshotter, base: Digest) -> None:
        expected = len(b"root" + b"secret" + b"a" + b"b" + b"su" + b"etc/passwd")
        assert snapshots.usage(base) == expected
        assert snapshots.apply(base, None, io.BytesIO(BASE)).size_bytes == expected

    def test_a_container_is_one_file_system(self, snapshots: Snapshotter, base: Digest) -> None:
        top = snapshots.apply(None, base, io.BytesIO(TOP)).diff_id
        with mounted(snapshots.prepare("c1", chain_id([base, top]))) as root:
            Path(root, "new").write_bytes(b"x")
            shown = [os.lstat(f"{root}/{path}") for path in ("", *listing(root))]
            assert len({status.st_dev for status in shown}) == 1
            assert len({status.st_ino for status in shown}) == len(shown)

    def test_writing_to_a_container_leaves_its_image_alone(self, snapshots: Snapshotter, base: Digest) -> None:
        with mounted(snapshots.prepare("c1", base)) as root:
            Path(root, "etc/passwd").write_bytes(b"changed")
        with mounted(snapshots.view(base)) as root:
            assert Path(root, "etc/passwd").read_bytes() == b"root"
        with mounted(snapshots.rootfs("c1")) as root:
            assert Path(root, "etc/passwd").read_bytes() == b"changed"

    def test_changes_are_docker_diff(self, snapshots: Snapshotter, base: Digest) -> None:
        self.change(snapshots, "c1", base)
        assert list(snapshots.changes("c1")) == [
            Change(path="/etc", kind=ChangeKind.CHANGED),
            Change(path="/etc/passwd", kind=ChangeKind.CHANGED),
            Change(path="/etc/shadow", kind=ChangeKind.DELETED),
            Change(path="/new", kind=ChangeKind.ADDED),
            Change(path="/new/file", kind=ChangeKind.ADDED),
            Change(path="/opt", kind=ChangeKind.CHANGED),
            Change(path="/opt/old", kind=ChangeKind.DELETED),
        ]

    def test_a_directory_made_anew_hides_what_was_in_it_and_a_new_one_says_nothing(self, snapshots: Snapshotter, base: Digest) -> None:
        with mounted(snapshots.prepare("c1", base)) as root:
            shutil.rmtree(f"{root}/etc")
            os.makedirs(f"{root}/etc/passwd")
            os.makedirs(f"{root}/opt/new/er")
        assert [(change.path, change.kind.name[0]) for change in snapshots.changes("c1")] == [
            *[("/etc", "C"), ("/etc/passwd", "C"), ("/etc/shadow", "D"), ("/opt", "C"), ("/opt/new", "A"), ("/opt/new/er", "A")]
        ]
        captured = snapshots.capture("c1").diff_id
        out = io.BytesIO()
        assert snapshots.pack("c1", out).diff_id == captured
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            assert {name.partition("/")[0] for name in tar.getnames() if "/.wh." in name} == {"etc"}
        with mounted(snapshots.view(chain_id([base, captured]))) as root:
            assert listing(root) >= {"etc/passwd", "opt/new/er"}
            assert "etc/shadow" not in listing(root)

    def test_a_committed_container_packs_and_applies_to_the_same_tree(
        self, snapshots: Snapshotter, base: Digest, make: Make, tmp_path: Path
    ) -> None:
        self.change(snapshots, "c1", base)
        out = io.BytesIO()
        facts = snapshots.pack("c1", out)
        assert facts.diff_id == sha256(out.getvalue())
        assert facts.size_bytes == len(b"changed" + b"x") == snapshots.usage("c1")
        name = chain_id([base, facts.diff_id])
        snapshots.commit("c1", name)
        assert snapshots.exists(name)
        assert not snapshots.exists("c1")
        assert snapshots.pack(name, NullSink()) == facts
        assert snapshots.packed_size(name) == len(out.getvalue())
        snapshots.write(name, written := io.BytesIO())
        assert written.getvalue() == out.getvalue()
        with mounted(snapshots.view(name)) as root:
            expected = listing(root)
        snapshots.remove(name)
        assert snapshots.apply(name, base, io.BytesIO(out.getvalue()), expected=facts.diff_id) == facts
        assert snapshots.packed_size(name) == len(out.getvalue())
        snapshots.write(name, written := io.BytesIO())
        assert written.getvalue() == out.getvalue()
        with mounted(snapshots.view(name)) as root:
            assert listing(root) == expected == {"bin", "bin/su", "etc", "etc/passwd", "hard", "link", "new", "new/file", "opt"}

    def test_a_captured_container_goes_on(self, snapshots: Snapshotter, base: Digest) -> None:
        self.change(snapshots, "c1", base)
        facts = snapshots.capture("c1")
        name = chain_id([base, facts.diff_id])
        with mounted(snapshots.rootfs("c1")) as root:
            Path(root, "new/file").write_bytes(b"later")
        with mounted(snapshots.view(name)) as root:
            assert Path(root, "new/file").read_bytes() == b"x"
            assert not os.path.exists(f"{root}/opt/old")
        assert snapshots.pack(name, NullSink()) == facts

    def test_what_no_layer_may_hold_is_refused_before_it_is_read(self, snapshots: Snapshotter, base: Digest) -> None:
        with mounted(snapshots.prepare("c1", base)) as root, open(f"{root}/holes", "wb") as file:
            file.truncate(8 << 40)
        for make in (lambda: snapshots.pack("c1", NullSink()), lambda: snapshots.capture("c1")):
            with pytest.raises(OSError, match="more than 68719476736 bytes of files: 'holes'"):
                make()
        assert [change.path for change in snapshots.changes("c1")] == ["/holes"]

    def test_a_directory_deleted_and_made_again_hides_what_it_held(self, snapshots: Snapshotter, base: Digest) -> None:
        with mounted(snapshots.prepare("c1", base)) as root:
            shutil.rmtree(f"{root}/opt/old")
            os.mkdir(f"{root}/opt/old")
            Path(root, "opt/old/b").write_bytes(b"")
        facts = snapshots.capture("c1")
        out = io.BytesIO()
        snapshots.pack("c1", out)
        name = chain_id([base, facts.diff_id])
        for _ in range(2):
            with mounted(snapshots.view(name)) as root:
                assert os.listdir(f"{root}/opt/old") == ["b"]
            snapshots.remove(name)
            snapshots.apply(name, base, io.BytesIO(out.getvalue()))

    def test_a_snapshot_without_parent_is_an_empty_root(self, snapshots: Snapshotter) -> None:
        rootfs = snapshots.prepare("scratch", None)
        assert rootfs.lower == ()
        with mounted(rootfs) as root:
            assert os.listdir(root) == []
            assert os.stat(root).st_mode & 0o7777 == 0o755
            Path(root, "a").write_bytes(b"a")
        facts = snapshots.pack("scratch", NullSink())
        snapshots.commit("scratch", facts.diff_id)
        assert snapshots.usage(facts.diff_id) == 1

    def test_the_root_directory_keeps_its_mode_through_layers(self, snapshots: Snapshotter) -> None:
        first = snapshots.apply(None, None, io.BytesIO(layer(directory("./", mode=0o700, uid=7), file("a")))).diff_id
        second = snapshots.apply(None, first, io.BytesIO(layer(file("b")))).diff_id
        with mounted(snapshots.prepare("c1", chain_id([first, second]))) as root:
            status = os.stat(root)
            assert (status.st_mode & 0o7777, status.st_uid) == (0o700, 7)

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (BASE[: -1024 - 511], InvalidArchive),
            (b"x" * 2000, InvalidArchive),
            (layer(file("../../escape", b"x")), InvalidArchive),
            (layer(file("a")), DigestMismatch),
        ],
    )
    def test_a_bad_layer_leaves_nothing(
        self, snapshots: Snapshotter, base: Digest, tmp_path: Path, data: bytes, error: type[Exception]
    ) -> None:
        before = listing(str(tmp_path / "snapshots"))
        with pytest.raises(error):
            snapshots.apply(chain_id([base, sha256(b"x")]), base, io.BytesIO(data), expected=sha256(b"x"))
        assert listing(str(tmp_path / "snapshots")) == before
        assert [info.name for info in snapshots.items()] == [base]

    def test_an_image_of_127_layers_works(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        chain: list[Digest] = []
        for number in range(127):
            parent = chain_id(chain) if chain else None
            tar = layer(directory("d"), file(f"d/{number}", b"%d" % number), file("same", b"%d" % number), file(f"d/.wh.{number - 5}"))
            chain.append(snapshots.apply(None, parent, io.BytesIO(tar)).diff_id)
        with mounted(snapshots.prepare("c1", chain_id(chain))) as root:
            assert sorted(os.listdir(f"{root}/d"), key=int) == [str(number) for number in range(122, 127)]
            assert Path(root, "same").read_bytes() == b"126"
            assert Path(root, "d/122").read_bytes() == b"122"

    def test_hostile_archives_end_alike_everywhere(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        """As the daemon's own snapshotter ends them: `tests/security/test_hostile_archives.py`."""
        (tmp_path / "canary").mkdir(mode=0o700)
        (tmp_path / "canary/file").write_text("untouched")
        slow = {"thirty thousand files", "one name ten thousand times", "sparse files of 2 TiB in all"}
        wrong = []
        for name, data in archives.layers(tmp_path / "canary").items():
            if name in slow:
                continue
            try:
                taken = snapshots.apply(None, None, io.BytesIO(data)).diff_id
                snapshots.view(taken)
                snapshots.remove(taken)
                refused = ""
            except (InvalidArchive, OSError) as error:
                refused = str(error)
            if bool(refused) != (name in archives.REFUSED):
                wrong.append(f"{name}: {refused or 'taken'}")
        assert not wrong, "\n".join(wrong)
        assert os.listdir(tmp_path / "canary") == ["file"]
        assert (tmp_path / "canary/file").read_text() == "untouched"

    def test_what_is_missing_or_taken_is_named(self, snapshots: Snapshotter, base: Digest) -> None:
        for call in (
            lambda: snapshots.prepare("c1", "nope"),
            lambda: snapshots.view("nope"),
            lambda: snapshots.rootfs("nope"),
            lambda: snapshots.rootfs(base),
            lambda: snapshots.commit("nope", "x"),
            lambda: snapshots.pack("nope", NullSink()),
            lambda: snapshots.usage("nope"),
            lambda: snapshots.apply(None, "nope", io.BytesIO(BASE)),
        ):
            with pytest.raises(SnapshotMissing):
                call()
        snapshots.prepare("c1", base)
        with pytest.raises(SnapshotExists):
            snapshots.prepare("c1", base)
        with pytest.raises(SnapshotMissing):
            snapshots.prepare("c2", "c1")
        with pytest.raises(SnapshotInUse):
            snapshots.remove(base)
        snapshots.remove("c1")
        snapshots.remove(base)
        snapshots.remove(base)
        assert snapshots.items() == []

    def test_what_is_detached_is_gone_before_its_files_are(self, snapshots: Snapshotter, base: Digest, tmp_path: Path) -> None:
        discard = snapshots.detach(base)
        old = set(os.listdir(tmp_path / "snapshots"))
        assert snapshots.items() == []
        assert list(snapshots.check(quick=True)) == []
        snapshots.apply(base, None, io.BytesIO(BASE))
        discard()
        assert not old & set(os.listdir(tmp_path / "snapshots"))
        assert snapshots.exists(base)
        assert list(snapshots.check(quick=False)) == []

    def test_committing_what_exists_only_removes_the_active_one(self, snapshots: Snapshotter, base: Digest) -> None:
        self.change(snapshots, "c1", base)
        self.change(snapshots, "c2", base)
        snapshots.commit("c1", "sha256:" + "1" * 64)
        snapshots.commit("c2", "sha256:" + "1" * 64)
        assert [(info.name, info.active) for info in snapshots.items()] == [("sha256:" + "1" * 64, False), (base, False)]

    def test_a_start_sweeps_what_has_no_row_and_mends_what_has_no_directory(
        self, snapshots: Snapshotter, base: Digest, records: Records, make: Make, tmp_path: Path
    ) -> None:
        snapshots.prepare("c1", base)
        before = listing(str(tmp_path / "snapshots"))
        (tmp_path / "snapshots/left/d/deep").mkdir(parents=True)
        (tmp_path / "snapshots/left/d/deep/file").write_bytes(b"x")
        upper = snapshots.rootfs("c1").upper
        assert upper is not None
        shutil.rmtree(os.path.dirname(upper))
        again = make(records)
        again.sweep()
        again.sweep()
        if again.name == "overlay":
            assert listing(str(tmp_path / "snapshots")) == before
            with mounted(again.rootfs("c1")) as root:
                assert Path(root, "etc/passwd").read_bytes() == b"root"
        else:
            assert os.listdir(upper) == []
        assert not (tmp_path / "snapshots/left").exists()

    def test_the_same_layer_made_by_several_threads_is_there_once(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            facts = list(pool.map(lambda _: snapshots.apply(sha256(BASE), None, io.BytesIO(BASE)), range(8)))
        assert len(set(facts)) == 1
        assert snapshots.items() == [SnapshotInfo(name=sha256(BASE), parent=None, active=False)]
        assert len(os.listdir(tmp_path / "snapshots")) == 1

    def test_a_kill_while_unpacking_leaves_nothing_after_the_next_start(
        self, snapshots: Snapshotter, make: Make, records: Records, tmp_path: Path
    ) -> None:
        more = [str(tmp_path / "mounts")] if snapshots.name == "erofs" else []
        arguments = [sys.executable, "-c", STALLED_UNPACKING, str(tmp_path), snapshots.name, *more]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(BASE[:-1024])
            child.stdin.close()
            assert child.stdout.readline() == b"ready\n"
            child.kill()
            child.wait(60)
        assert len(os.listdir(tmp_path / "snapshots")) == 1
        assert snapshots.items() == []
        make(records).sweep()
        assert os.listdir(tmp_path / "snapshots") == []

    def change(self, snapshots: Snapshotter, key: str, base: Digest) -> None:
        with mounted(snapshots.prepare(key, base)) as root:
            Path(root, "etc/passwd").write_bytes(b"changed")
            os.utime(f"{root}/etc/passwd", (1_600_000_000, 1_600_000_000))
            os.unlink(f"{root}/etc/shadow")
            shutil.rmtree(f"{root}/opt/old")
            os.mkdir(f"{root}/new")
            Path(root, "new/file").write_bytes(b"x")
            os.utime(f"{root}/new/file", (1_600_000_000, 1_600_000_000))
