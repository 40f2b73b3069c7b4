from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from wherry.tree.copy import CopyOptions, copy_entry, copy_tree

pytestmark = pytest.mark.root


def copied(source: Path, target: Path, options: CopyOptions | None = None) -> None:
    target.mkdir(exist_ok=True)
    source_fd, target_fd = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        copy_tree(source_fd, target_fd, options)
    finally:
        os.close(source_fd)
        os.close(target_fd)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(b"data")
    os.link(root / "d/f", root / "d/e/hard")
    (root / "d/s").symlink_to("/nowhere")
    os.mknod(root / "d/null", stat.S_IFCHR | 0o606, os.makedev(1, 3))
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(8 << 20)
        sparse.seek(4 << 20)
        sparse.write(b"x")
    os.setxattr(root / "d/f", "user.a", b"1")
    os.setxattr(root / "d", "trusted.overlay.opaque", b"y")
    os.chown(root / "d", 5, 6)
    os.chmod(root / "d", 0o2770)
    os.chmod(root, 0o711)
    for name in ("d/f", "d/s", "d", "."):
        os.utime(root / name, ns=(1, 1_600_000_000_000_000_001), follow_symlinks=False)
    return root


def test_a_copy_is_the_same_tree(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    copied(source, target)
    for name in ("", "d", "d/e", "d/f", "d/e/hard", "d/s", "d/null", "sparse"):
        old, new = os.lstat(source / name), os.lstat(target / name)
        for field in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns", "st_nlink"):
            assert getattr(old, field) == getattr(new, field), (name, field)
    assert subprocess.run(["diff", "-r", "--no-dereference", str(source / "d/e"), str(target / "d/e")], timeout=100).returncode == 0
    assert (target / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert os.stat(target / "sparse").st_blocks < 100
    assert os.getxattr(target / "d/f", "user.a") == b"1"
    assert os.listxattr(target / "d") == []


def test_marks_of_overlayfs_are_copied_when_asked(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "target", CopyOptions(attributes=frozenset({"trusted.overlay.opaque"})))
    assert os.getxattr(tmp_path / "target/d", "trusted.overlay.opaque") == b"y"


def test_a_copy_merges_directories_and_replaces_the_rest(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "d/f").mkdir(parents=True)
    (target / "d/kept").touch()
    (target / "sparse").symlink_to(tmp_path / "canary")
    (tmp_path / "canary").write_bytes(b"alive")
    mode = os.stat(target).st_mode
    copied(source, target, CopyOptions(root=False, owner=(7, 8), skip=lambda path: path == "d/e"))
    assert (target / "d/f").read_bytes() == b"data"
    assert (target / "d/kept").exists()
    assert not (target / "d/e").exists()
    assert not (target / "sparse").is_symlink()
    assert (tmp_path / "canary").read_bytes() == b"alive"
    assert os.stat(target).st_mode == mode
    for name in ("d", "d/f", "d/s", "sparse"):
        assert (os.lstat(target / name).st_uid, os.lstat(target / name).st_gid) == (7, 8)


def test_a_symlink_in_the_target_is_replaced_by_the_directory_and_never_followed(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "canary").mkdir()
    (target / "d").symlink_to(tmp_path / "canary")
    copied(source, target)
    assert os.listdir(tmp_path / "canary") == []
    assert (target / "d/f").read_bytes() == b"data"


def test_one_file_is_copied_under_another_name(source: Path, tmp_path: Path) -> None:
    source_fd, target_fd = os.open(source / "d", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    copy_entry(source_fd, "f", target_fd, "g")
    copy_entry(source_fd, "s", target_fd, "g")
    os.close(source_fd)
    os.close(target_fd)
    assert os.readlink(tmp_path / "g") == "/nowhere"
