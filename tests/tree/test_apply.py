from __future__ import annotations

import io
import os
import resource
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.tree.apply import Applied, ApplyOptions, Whiteouts, apply, clean
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_reader import Reader
from wherry.tree.tar_writer import Writer, header

pytestmark = pytest.mark.root

OVERLAY = ApplyOptions(whiteouts=Whiteouts.OVERLAY)
DELETE = ApplyOptions(whiteouts=Whiteouts.DELETE)
LITERAL = ApplyOptions()
Made = tuple[Entry, bytes]


def file(name: str, data: bytes = b"", mode: int = 0o644, xattrs: dict[str, bytes] | None = None) -> Made:
    return Entry(name=name, size=len(data), mode=mode, mtime_ns=5, xattrs=xattrs or {}), data


def directory(name: str, mode: int = 0o755) -> Made:
    return Entry(name=name, kind=Kind.DIRECTORY, mode=mode, mtime_ns=7), b""


def symlink(name: str, target: str) -> Made:
    return Entry(name=name, kind=Kind.SYMLINK, link=target, mtime_ns=6), b""


def hardlink(name: str, target: str, mode: int = 0o777) -> Made:
    return Entry(name=name, kind=Kind.HARDLINK, link=target, mode=mode), b""


def archive(*members: Made) -> bytes:
    out = io.BytesIO()
    writer = Writer(out)
    for entry, data in members:
        writer.add(entry, data)
    writer.finish()
    return out.getvalue()


def unpack(root: Path, *members: Made, options: ApplyOptions = OVERLAY) -> Applied:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return apply(Reader(io.BytesIO(archive(*members))), fd, options)
    finally:
        os.close(fd)


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that can be seen of a tree, without atime and ctime."""
    found: dict[str, tuple[object, ...]] = {}
    for path, directories, files in os.walk(root):
        for name in [*directories, *files, "."]:
            full = os.path.join(path, name)
            status = os.lstat(full)
            data: object = None
            if stat.S_ISREG(status.st_mode):
                data = Path(full).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                data = os.readlink(full)
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[os.path.relpath(full, root)] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                size,
                status.st_mtime_ns,
                status.st_rdev,
                data,
            )
    return found


@pytest.fixture
def root(abyss: Path) -> Path:
    (abyss / "root").mkdir()
    return abyss / "root"


@pytest.fixture
def canary(abyss: Path) -> Iterator[Path]:
    """A directory beside the root that no archive may change."""
    path = abyss / "canary"
    path.mkdir()
    (path / "file").write_bytes(b"alive")
    (path / "file").chmod(0o600)
    (path / "sub").mkdir()
    before = picture(abyss / "canary")
    links = os.stat(path / "file").st_nlink
    yield path
    assert picture(path) == before
    assert os.stat(path / "file").st_nlink == links


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", "a"),
        ("a/", "a"),
        ("./a", "a"),
        ("/a", "a"),
        ("a//b", "a/b"),
        ("a/./b", "a/b"),
        ("a/../b", "b"),
        ("/../../a", "a"),
        (".", ""),
        ("./", ""),
        ("", ""),
        ("..a/.b", "..a/.b"),
    ],
)
def test_names_are_taken_relative_to_the_root(name: str, expected: str) -> None:
    assert clean(name) == expected


@pytest.mark.parametrize("name", ["..", "../a", "a/../../b", "./../a"])
def test_names_that_leave_the_root_are_refused(name: str) -> None:
    with pytest.raises(InvalidArchive, match="outside of the root"):
        clean(name)


def test_everything_an_archive_says_is_made(root: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    members = [
        (Entry(name="./", kind=Kind.DIRECTORY, mode=0o700, uid=3, mtime_ns=11), b""),
        (Entry(name="dir", kind=Kind.DIRECTORY, mode=0o3751, uid=1, gid=2, mtime_ns=1_700_000_000_123_456_789), b""),
        (
            Entry(
                name="dir/suid", mode=0o4711, uid=8, gid=9, size=3, mtime_ns=-5, xattrs={"security.capability": capability, "user.x": b"\0"}
            ),
            b"abc",
        ),
        (Entry(name="dir/fifo", kind=Kind.FIFO, mode=0o666, uid=4, mtime_ns=3), b""),
        (Entry(name="dir/null", kind=Kind.CHARACTER, mode=0o666, device=(1, 3)), b""),
        (Entry(name="dir/loop", kind=Kind.BLOCK, mode=0o660, gid=6, device=(7, 300)), b""),
        (Entry(name="dir/link", kind=Kind.SYMLINK, link="/etc/passwd", uid=5, mtime_ns=4), b""),
        hardlink("dir/hard", "dir/suid"),
        hardlink("dir/hardlink", "./dir/link"),
        file("no/entry/for/parents", b"x"),
    ]
    applied = unpack(root, *members)
    assert applied == Applied(size_bytes=3 + len("/etc/passwd") + 1, entries=10)
    seen = picture(root)
    assert seen["."][:2] == (stat.S_IFDIR | 0o700, 3)
    assert os.stat(root).st_mtime_ns == 11
    assert seen["dir"][:3] == (stat.S_IFDIR | 0o3751, 1, 2)
    assert seen["dir"][4] == 1_700_000_000_123_456_789
    assert seen["dir/suid"] == (stat.S_IFREG | 0o4711, 8, 9, 3, -5, 0, b"abc") == seen["dir/hard"]
    assert os.getxattr(root / "dir/hard", "security.capability") == capability
    assert os.getxattr(root / "dir/hard", "user.x") == b"\0"
    assert seen["dir/fifo"][:2] == (stat.S_IFIFO | 0o666, 4)
    assert (seen["dir/null"][0], seen["dir/null"][5]) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (seen["dir/loop"][0], seen["dir/loop"][5]) == (stat.S_IFBLK | 0o660, os.makedev(7, 300))
    assert seen["dir/link"] == seen["dir/hardlink"]
    assert (seen["dir/link"][1], seen["dir/link"][4], seen["dir/link"][6]) == (5, 4, "/etc/passwd")
    assert seen["no/entry/for"][:3] == (stat.S_IFDIR | 0o755, 0, 0)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_real_tree_unpacks_as_gnu_tar_does(form: str, root: Path, tmp_path: Path) -> None:
    source = os.path.dirname(os.__file__)
    packed = subprocess.run(
        ["tar", "-c", f"--format={form}", "-C", source, "json", "email", "unittest"], check=True, timeout=60, stdout=subprocess.PIPE
    ).stdout
    (tmp_path / "peer").mkdir()
    subprocess.run(["tar", "-xp", "-C", str(tmp_path / "peer")], input=packed, check=True, timeout=60)
    fd = os.open(root, os.O_RDONLY)
    apply(Reader(io.BytesIO(packed)), fd, OVERLAY)
    os.close(fd)
    ours, theirs = picture(root), picture(tmp_path / "peer")
    for name in [name for name in ours if name.endswith(".")]:
        del ours[name], theirs[name]
    assert ours == theirs


def escapes(canary: Path) -> dict[str, list[Made]]:
    """Archives that try to reach the canary (an absolute path, or ../canary from the root)."""
    outside = str(canary)
    return {
        "dotdot": [file("../canary/new")],
        "dotdot in the middle": [file("a/../../canary/new")],
        "symlink to absolute then file": [symlink("out", outside), file("out/file", b"dead")],
        "symlink to relative then file": [symlink("out", "../canary"), file("out/file", b"dead")],
        "symlink by proc": [symlink("out", "/proc/self/cwd"), file("out/file", b"dead")],
        "symlink chain": [
            symlink("a", "b/.."),
            symlink("b", "../.."),
            file(f"a/..{outside}/file", b"dead"),
            file("b/canary/file", b"dead"),
        ],
        "symlink then directory": [symlink("out", outside), directory("out", 0o777)],
        "symlink then directory below": [symlink("out", outside), directory("out/sub", 0o777)],
        "symlink as the file itself": [symlink("f", f"{outside}/file"), file("f", b"dead", 0o777)],
        "symlink then chmod by directory entry": [symlink("f", f"{outside}/file"), directory("f", 0o777)],
        "hard link outside": [hardlink("h", "../canary/file")],
        "hard link outside absolute": [hardlink("h", f"{outside}/file"), file("h", b"dead")],
        "hard link through symlink": [symlink("out", outside), hardlink("h", "out/file"), file("h", b"dead")],
        "hard link to symlink then write": [symlink("s", f"{outside}/file"), hardlink("h", "s"), file("h", b"dead", 0o777)],
        "hard link to symlink to directory": [symlink("s", outside), hardlink("h", "s"), file("h/file", b"dead")],
        "whiteout through symlink": [symlink("out", outside), file("out/.wh.file")],
        "whiteout with dotdot": [file("../canary/.wh.file")],
        "whiteout of dotdot": [file("a/.wh..."), file(".wh...")],
        "whiteout of nothing": [file("a/.wh.")],
        "whiteout of dot": [file("a/.wh..")],
        "opaque through symlink": [symlink("out", outside), file("out/.wh..wh..opq")],
        "opaque with dotdot": [file("../canary/.wh..wh..opq")],
        "device through symlink": [symlink("out", outside), (Entry(name="out/null", kind=Kind.CHARACTER, device=(1, 3)), b"")],
        "fifo over symlink": [symlink("f", f"{outside}/file"), (Entry(name="f", kind=Kind.FIFO, mode=0o777), b"")],
        "symlink replaces a cached directory": [directory("d"), file("d/one"), symlink("d", outside), file("d/file", b"dead")],
        "whiteout replaces a cached directory": [
            directory("d/e"),
            file("d/e/one"),
            file(".wh.d"),
            symlink("d", ".."),
            file("d/canary/file", b"dead"),
        ],
        "deep path beyond PATH_MAX": [directory("/".join(["d" * 200] * 30))],
        "many links in a row": [*(symlink(f"l{n}", f"l{n + 1}") for n in range(50)), symlink("l50", outside), file("l0/file", b"dead")],
        "symlink to itself": [symlink("l", "l"), file("l/file")],
        "directory time through symlink": [directory("d"), symlink("d", outside)],
    }


@pytest.mark.parametrize("mode", [OVERLAY, DELETE, LITERAL], ids=lambda options: options.whiteouts.value)
@pytest.mark.parametrize("case", escapes(Path("/")))
def test_nothing_outside_of_the_root_is_touched(case: str, mode: ApplyOptions, root: Path, canary: Path) -> None:
    try:
        unpack(root, *escapes(canary)[case], options=mode)
    except (InvalidArchive, OSError):
        pass
    assert len(os.listdir("/proc/self/fd")) < 200


def test_a_parent_swapped_for_a_symlink_while_unpacking_leads_nowhere(root: Path, canary: Path) -> None:
    """What a container does to its own tree during `docker cp`."""
    (root / "d").mkdir()
    (root / "link").symlink_to(canary)
    stop = threading.Event()

    def race() -> None:
        while not stop.is_set():
            try:
                os.rename(root / "d", root / "x")
                os.rename(root / "link", root / "d")
                os.rename(root / "d", root / "link")
                os.rename(root / "x", root / "d")
            except OSError:
                return

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(60):
            try:
                unpack(root, *(file("d/file", b"dead"), directory("d/sub", 0o777), hardlink("d/h", "d/file")), options=LITERAL)
            except (InvalidArchive, OSError):
                pass
    finally:
        stop.set()
        racer.join(10)


def test_symlinks_in_the_middle_of_a_name_are_followed_inside_the_root(root: Path) -> None:
    unpack(root, directory("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr"), file("lib/a", b"1"), file("abs/lib/b", b"2"))
    assert sorted(os.listdir(root / "usr/lib")) == ["a", "b"]


def test_a_symlink_that_replaces_itself_by_a_directory_is_followed_no_more(root: Path) -> None:
    unpack(root, symlink("a", "."), directory("a/a"), file("a/b", b"inside"))
    assert (root / "a/b").read_bytes() == b"inside"
    assert not (root / "b").exists()


def test_attributes_that_steer_overlayfs_or_belong_to_root_are_dropped(root: Path) -> None:
    bad = {
        "trusted.overlay.redirect": b"/etc",
        "trusted.overlay.metacopy": b"",
        "user.overlay.opaque": b"y",
        "trusted.x": b"1",
        "security.selinux": b"x",
    }
    unpack(root, file("a", b"x", xattrs={**bad, "user.good": b"1"}), (Entry(name="d", kind=Kind.DIRECTORY, xattrs=dict(bad)), b""))
    assert os.listxattr(root / "a") == ["user.good"]
    assert os.listxattr(root / "d") == []


def test_whiteouts_become_overlayfs_marks(root: Path) -> None:
    unpack(
        root,
        file("d/.wh.gone"),
        file("d/.wh..wh..opq"),
        file("d/.wh..wh.plnk"),
        file("top"),
        file(".wh.top"),
        file("d/.wh.back"),
        file("d/back", b"1"),
    )
    assert sorted(os.listdir(root / "d")) == ["back", "gone"]
    for gone in (root / "d/gone", root / "top"):
        status = os.lstat(gone)
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
    assert (root / "d/back").read_bytes() == b"1"


def test_whiteouts_delete_what_was_there_before(root: Path) -> None:
    for name in ("d/old/deep/file", "d/sub/old", "gone/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"old")
    (root / "kept").write_bytes(b"old")
    unpack(
        root, file("d/sub/new", b"1"), file("d/.wh..wh..opq"), file("d/late", b"2"), file(".wh.gone"), file(".wh.absent"), options=DELETE
    )
    assert sorted(picture(root)) == [".", "d", "d/late", "d/sub", "d/sub/new", "kept"]


def test_whiteouts_are_plain_files_where_layers_are_not_meant(root: Path) -> None:
    (root / "a").write_bytes(b"1")
    unpack(root, file(".wh.a"), file(".wh..wh..opq"), options=LITERAL)
    assert sorted(os.listdir(root)) == [".wh..wh..opq", ".wh.a", "a"]


def test_an_entry_replaces_what_was_in_its_place(root: Path) -> None:
    unpack(
        root,
        file("a", b"1"),
        symlink("a", "x"),
        directory("a"),
        file("a/in"),
        file("a", b"22"),
        directory("keep"),
        file("keep/in"),
        directory("keep", 0o700),
        file("h", b"333"),
        hardlink("h2", "h"),
        file("h", b"4444"),
        file("b", b"1"),
        file("b", b"55555"),
    )
    assert (root / "a").read_bytes() == b"22"
    assert (root / "keep/in").exists()
    assert os.stat(root / "keep").st_mode & 0o777 == 0o700
    assert ((root / "h").read_bytes(), (root / "h2").read_bytes()) == (b"4444", b"333")


def test_a_hard_link_changes_no_mode_and_needs_its_target(root: Path) -> None:
    unpack(root, file("a", b"1", 0o600), hardlink("b", "a", 0o4777), hardlink("a", "a"))
    assert os.stat(root / "a").st_mode & 0o7777 == 0o600
    with pytest.raises(InvalidArchive, match="hard link to 'nope', which does not exist"):
        unpack(root, hardlink("c", "nope"))


def test_directories_are_not_replaced_by_files_nor_files_by_directories_when_that_is_asked(root: Path) -> None:
    (root / "d").mkdir()
    (root / "f").touch()
    keep = ApplyOptions(keep_kinds=True)
    with pytest.raises(InvalidArchive, match='cannot overwrite directory "/d" with non-directory'):
        unpack(root, file("d"), options=keep)
    with pytest.raises(InvalidArchive, match='cannot overwrite non-directory "/f" with directory'):
        unpack(root, directory("f"), options=keep)
    unpack(root, file("f", b"new"), directory("d", 0o700), options=keep)
    assert (root / "f").read_bytes() == b"new"


def test_everything_can_be_given_to_one_owner(root: Path) -> None:
    unpack(root, file("made/parents/file", b"x"), symlink("l", "x"), directory("d"), options=ApplyOptions(owner=(12, 34)))
    for name in ("made", "made/parents", "made/parents/file", "l", "d"):
        status = os.lstat(root / name)
        assert (status.st_uid, status.st_gid) == (12, 34)


@pytest.mark.parametrize("mode", [OVERLAY, DELETE], ids=lambda options: options.whiteouts.value)
def test_many_opaque_marks_and_deep_nesting_take_linear_time(mode: ApplyOptions, root: Path) -> None:
    nested = ["/".join(["d"] * depth) for depth in range(1, 1500)]
    started = time.process_time()
    unpack(root, *(directory(path) for path in nested), *(file(f"{path}/.wh..wh..opq") for path in reversed(nested)), options=mode)
    unpack(root, *([file("a/.wh..wh..opq")] * 20_000), options=mode)
    assert time.process_time() - started < 6


def test_memory_and_descriptors_stay_flat(root: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = _Bomb(128 << 20)
    fd = os.open(root, os.O_RDONLY)
    apply(Reader(source), fd, OVERLAY)
    os.close(fd)
    assert os.stat(root / "bomb").st_size == 128 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
    assert len(os.listdir("/proc/self/fd")) == descriptors


class _Bomb:
    """One file of zeros, made as it is read."""

    def __init__(self, size: int) -> None:
        self.head = header(Entry(name="bomb", size=size))
        self.left = size + 1024

    def read(self, size: int, /) -> bytes:
        if self.head:
            head, self.head = self.head, b""
            return head
        take = min(size, self.left)
        self.left -= take
        return bytes(take)


def test_a_directory_that_becomes_a_symlink_leaves_no_trace(tmp_path: Path) -> None:
    out = io.BytesIO()
    writer = Writer(out)
    for entry in (
        Entry(name="a/b", kind=Kind.DIRECTORY, mtime_ns=9),
        Entry(name="a", kind=Kind.SYMLINK, link="a", mtime_ns=7),
        Entry(name="c", kind=Kind.DIRECTORY, mtime_ns=9),
        Entry(name="c", kind=Kind.SYMLINK, link="a", mtime_ns=7),
    ):
        writer.add(entry)
    writer.finish()
    out.seek(0)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        apply(Reader(out), fd)
    finally:
        os.close(fd)
    assert os.readlink(tmp_path / "a") == "a"
    assert {(tmp_path / name).lstat().st_mtime_ns for name in "ac"} == {7}
