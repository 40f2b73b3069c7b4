from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from wherry.tree.apply import ApplyOptions, Whiteouts, apply
from wherry.tree.compare import compare
from wherry.tree.durable import sync_small_tree
from wherry.tree.measure import disk_bytes, tree_bytes
from wherry.tree.pack import Packed, PackOptions, pack, pack_entry
from wherry.tree.tar_reader import Reader
from wherry.tree.tar_writer import Writer

pytestmark = pytest.mark.root


def packed(root: Path, options: PackOptions | None = None) -> tuple[bytes, Packed]:
    out = io.BytesIO()
    fd = os.open(root, os.O_RDONLY)
    try:
        facts = pack(fd, out, options)
    finally:
        os.close(fd)
    return out.getvalue(), facts


def names(archive: bytes) -> list[str]:
    return [entry.name for entry in Reader(io.BytesIO(archive))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "b/inner").mkdir(parents=True)
    (root / "b/inner").chmod(0o2711)
    (root / "b/file").write_bytes(b"12345")
    (root / "b/file").chmod(0o4755)
    os.setxattr(root / "b/file", "user.a", b"\0=\n")
    os.setxattr(root / "b/file", "trusted.b", b"secret")
    (root / "a").symlink_to("/target")
    os.link(root / "b/file", root / "z")
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(root / "b", 3_000_000, 5)
    os.utime(root / "b/file", ns=(0, 1_700_000_000_500_000_000))
    return root


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    first, facts = packed(tree)
    subprocess.run(["cp", "-a", str(tree), str(tmp_path / "copy")], check=True, timeout=100)
    assert packed(tmp_path / "copy")[0] == first
    assert facts == Packed(size_bytes=5 + len("/target"), entries=7)
    assert names(first) == ["a", "fifo", "null", "z", "b/", "b/file", "b/inner/"]


def test_what_is_packed_unpacks_the_same_here_and_with_gnu_tar(tree: Path, tmp_path: Path) -> None:
    archive, _ = packed(tree, PackOptions(whole_seconds=False))
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    fd = os.open(tmp_path / "ours", os.O_RDONLY)
    apply(Reader(io.BytesIO(archive)), fd)
    os.close(fd)
    subprocess.run(["tar", "-xp", "--numeric-owner", "-C", str(tmp_path / "theirs")], input=archive, check=True, timeout=100)
    for root in (tmp_path / "ours", tmp_path / "theirs"):
        for name in ("a", "fifo", "null", "z", "b", "b/file", "b/inner"):
            ours, original = os.lstat(root / name), os.lstat(tree / name)
            for field in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns", "st_nlink"):
                assert getattr(ours, field) == getattr(original, field), (root, name, field)
    assert os.getxattr(tmp_path / "ours/b/file", "user.a") == b"\0=\n"
    assert "trusted.b" not in os.listxattr(tmp_path / "ours/b/file")


def test_times_are_cut_to_seconds_as_docker_does(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(tree)[0])) as archive:
        assert archive.getmember("z").mtime == 1_700_000_000


def test_overlay_marks_become_whiteouts_and_come_back(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "d").mkdir(parents=True)
    os.mknod(upper / "d/gone", stat.S_IFCHR, 0)
    os.mknod(upper / "top", stat.S_IFCHR, 0)
    os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")
    archive, facts = packed(upper, PackOptions(overlay=True))
    assert names(archive) == [".wh.top", "d/", "d/.wh..wh..opq", "d/.wh.gone"]
    assert facts.size_bytes == 0
    (tmp_path / "again").mkdir()
    fd = os.open(tmp_path / "again", os.O_RDONLY)
    apply(Reader(io.BytesIO(archive)), fd, ApplyOptions(whiteouts=Whiteouts.OVERLAY))
    os.close(fd)
    assert packed(tmp_path / "again", PackOptions(overlay=True))[0] == archive


def test_prefix_skip_and_deleted(tree: Path) -> None:
    options = PackOptions(
        prefix="/data/", skip=lambda path: path in ("b/inner", "z", "null", "fifo"), deleted={"": ["old"], "b": ["y", "x"]}
    )
    assert names(packed(tree, options)[0]) == ["data/", "data/.wh.old", "data/a", "data/b/", "data/b/.wh.x", "data/b/.wh.y", "data/b/file"]


def test_every_name_of_a_file_has_its_attributes(tree: Path) -> None:
    """Docker changes the owner for each of them, with which the kernel takes the file's capabilities away."""
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(tree / "z", "security.capability", capability)
    with tarfile.open(fileobj=io.BytesIO(packed(tree)[0])) as archive:
        first, second = archive.getmember("z"), archive.getmember("b/file")
    assert (first.isfile(), second.islnk()) == (True, True)
    for member in (first, second):
        assert member.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == capability
        assert member.pax_headers["SCHILY.xattr.user.a"] == "\0=\n"


def test_sockets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "t/s"))
        assert names(packed(tmp_path / "t")[0]) == []


def test_one_file_can_be_packed_under_another_name(tree: Path) -> None:
    out = io.BytesIO()
    writer = Writer(out)
    fd = os.open(tree / "b", os.O_RDONLY)
    pack_entry(fd, "file", writer, archive_name="renamed")
    os.close(fd)
    writer.finish()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        member = archive.extractfile("renamed")
        assert member is not None
        assert member.read() == b"12345"


def nested(place: Path, count: int) -> int:
    """So many directories, each in the one before; a descriptor of ``place``, the caller's."""
    first = fd = os.open(place, os.O_RDONLY)
    for _ in range(count):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        if fd != first:
            os.close(fd)
        fd = inner
    os.close(fd)
    return first


def test_a_tree_deeper_than_the_interpreters_stack_is_packed(abyss: Path) -> None:
    first = nested(abyss, 1500)
    try:
        out = io.BytesIO()
        assert pack(first, out).entries == 1500
    finally:
        os.close(first)


def test_of_a_tree_deeper_than_any_path_that_is_taken_which_has_one(abyss: Path) -> None:
    """By all who walk through it."""
    first = nested(abyss, 3000)  # a path of 4094 bytes has 2047 of them
    try:
        out = io.BytesIO()
        facts = pack(first, out)
        assert (facts.entries, facts.left_out) == (2047, 1)
        assert max(map(len, names(out.getvalue()))) == 4094
        assert len(compare(None, first)) == 2047
        assert not sync_small_tree(first, 10_000)
        assert tree_bytes(first) == 0
        assert disk_bytes(str(abyss), set()) >= 0
    finally:
        os.close(first)


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with open(tmp_path / "t/big", "wb") as big:
        big.truncate(40 << 20)
        big.seek(20 << 20)
        big.write(b"middle")

    class Hash:
        def __init__(self) -> None:
            self.sum = hashlib.sha256()
            self.largest = 0

        def write(self, data: bytes | bytearray | memoryview, /) -> None:
            self.sum.update(data)
            self.largest = max(self.largest, len(data))

    out = Hash()
    fd = os.open(tmp_path / "t", os.O_RDONLY)
    assert pack(fd, out).size_bytes == 40 << 20
    os.close(fd)
    assert out.largest <= 2 << 20
