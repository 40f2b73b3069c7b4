"""Paths that try to leave a root, attributes of everything, copies with holes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.kernel import files


@pytest.fixture
def root(tmp_path: Path):
    directory = tmp_path / "root"
    directory.mkdir()
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    yield directory, fd
    os.close(fd)


def test_links_and_dots_stay_inside_the_root(root):
    directory, fd = root
    (directory / "etc").mkdir()
    (directory / "etc/name").write_text("inside")
    (directory / "absolute").symlink_to("/etc/name")
    (directory / "climbing").symlink_to("../../../../etc/name")
    for path in ("absolute", "climbing", "../../etc/name", "/etc/name"):
        opened = files.open_in_root(fd, path, os.O_RDONLY)
        assert os.read(opened, 100) == b"inside"
        os.close(opened)


def test_magic_links_are_refused(root):
    directory, _fd = root
    (directory / "magic").symlink_to("/proc/self/root")
    proc = os.open("/proc", os.O_PATH)
    with pytest.raises(OSError, match="symbolic links"):
        files.open_in_root(proc, "self/root", os.O_PATH)
    os.close(proc)


def test_beneath_refuses_links_and_parents(root):
    directory, fd = root
    (directory / "a").mkdir()
    (directory / "link").symlink_to("a")
    for path in ("link", "..", "a/../../x", "/a"):
        with pytest.raises(OSError):
            files.open_beneath(fd, path, os.O_PATH)
    os.close(files.open_beneath(fd, "link", os.O_PATH, symlinks=True))


def test_directories_are_made_with_owner_and_mode_and_never_through_a_dangling_link(root, tmp_path):
    directory, fd = root
    (directory / "dangling").symlink_to("/nowhere")
    os.close(files.mkdirs_in_root(fd, "/x/y/z", 0o751, os.getuid(), os.getgid()))
    assert (directory / "x/y").stat().st_mode & 0o777 == 0o751
    for path in ("dangling", "dangling/deeper"):
        with pytest.raises(OSError):
            files.mkdirs_in_root(fd, path)
    assert not (directory / "nowhere").exists()
    assert not (tmp_path / "nowhere").exists()


def test_reading_a_small_file_never_blocks_and_never_takes_more_than_asked(root):
    directory, fd = root
    os.mkfifo(directory / "fifo")
    (directory / "big").write_bytes(b"x" * 11)
    (directory / "zero").symlink_to("/dev/zero")
    assert files.read_small_file(fd, "big", 11) == b"x" * 11
    for path, limit in (("fifo", 10), ("big", 10), ("zero", 10)):
        with pytest.raises(OSError):
            files.read_small_file(fd, path, limit)


def test_attributes_of_files_links_and_descriptors(root):
    directory, fd = root
    (directory / "f").write_text("")
    files.set_xattr(fd, "f", "user.one", b"a\0b")
    files.set_xattr(fd, "f", "user.empty", b"")
    assert sorted(files.list_xattrs(fd, "f")) == ["user.empty", "user.one"]
    assert files.get_xattr(fd, "f", "user.one") == b"a\0b"
    files.set_xattr(fd, "", "user.directory", b"d" * 3000)
    assert files.get_xattr(fd, "", "user.directory") == b"d" * 3000
    files.remove_xattr(fd, "f", "user.one")
    with pytest.raises(OSError):
        files.get_xattr(fd, "f", "user.one")


def test_copy_keeps_content_and_holes(tmp_path):
    source = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    os.pwrite(source, b"start", 0)
    os.pwrite(source, b"end", 10 << 20)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    assert files.copy_file(source, target) == (10 << 20) + 3
    assert (tmp_path / "source").read_bytes() == (tmp_path / "target").read_bytes()
    assert os.fstat(target).st_blocks <= os.fstat(source).st_blocks + 64
    os.close(source)
    os.close(target)


def test_failure_names_the_call_and_the_path(root):
    with pytest.raises(FileNotFoundError) as failure:
        files.open_in_root(root[1], "no/such", os.O_PATH)
    assert failure.value.filename == "no/such"
    assert "openat2" in str(failure.value)
