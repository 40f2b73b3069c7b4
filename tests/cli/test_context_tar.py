"""The build context as a tar: read back with the standard library's tarfile."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from wherry.cli.context_tar import PIECE, ContextFault, ContextTar, one_file
from wherry.spec.patterns import Patterns, patterns_of


def whole(context: ContextTar) -> bytes:
    return b"".join(bytes(piece) for piece in context)


def members(context: ContextTar) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(whole(context))) as tar:
        return {member.name: member for member in tar}


def test_files_links_and_directories_arrive_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"x" * 700)
    (tmp_path / "d" / "f").chmod(0o640)
    (tmp_path / "link").symlink_to("d/f")
    os.link(tmp_path / "d" / "f", tmp_path / "second")
    found = members(ContextTar(str(tmp_path)))
    assert list(found) == ["d", "d/f", "link", "second"]
    assert (found["d/f"].size, found["d/f"].mode, found["d/f"].uid, found["d/f"].gid) == (700, 0o640, 0, 0)
    assert (found["link"].linkname, found["second"].linkname) == ("d/f", "d/f")
    assert found["second"].islnk()


def test_long_and_foreign_names_and_old_times_survive(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 90) / ("b" * 90)
    deep.mkdir(parents=True)
    (deep / "é☃").write_text("y")
    (tmp_path / "to").symlink_to("z" * 150)
    os.utime(tmp_path / "to", (-5, -5), follow_symlinks=False)
    found = members(ContextTar(str(tmp_path)))
    assert f"{'a' * 90}/{'b' * 90}/é☃" in found
    assert (found["to"].linkname, found["to"].mtime) == ("z" * 150, -5)


def test_sockets_are_left_out_and_fifos_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "s"))
        found = members(ContextTar(str(tmp_path)))
    assert list(found) == ["fifo"]
    assert found["fifo"].isfifo()


def test_an_exception_brings_the_directories_above_it(tmp_path: Path) -> None:
    for name in ("docs/in/a.md", "docs/in/b.md", "docs/c", "x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(members(ContextTar(str(tmp_path), Patterns(patterns_of("docs\n!docs/in/a.md"))))) == [
        "docs",
        "docs/in",
        "docs/in/a.md",
        "x",
    ]


def test_extra_files_take_the_place_of_those_in_the_tree(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with tarfile.open(fileobj=io.BytesIO(whole(ContextTar(str(tmp_path), None, {"f": b"new"})))) as tar:
        content = tar.extractfile("f")
        assert content is not None
        assert (tar.getnames(), content.read()) == (["f"], b"new")


def test_sent_counts_every_byte(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    context = ContextTar(str(tmp_path))
    data = whole(context)
    assert context.sent == len(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        content = tar.extractfile("big")
        assert content is not None
        assert content.read() == (tmp_path / "big").read_bytes()


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContextFault, match=r"open .*gone: no such file or directory"):
        whole(ContextTar(str(tmp_path / "gone")))


def test_one_file_is_a_whole_tar() -> None:
    with tarfile.open(fileobj=io.BytesIO(one_file("Dockerfile", b"FROM x\n"))) as tar:
        assert tar.getnames() == ["Dockerfile"]


def test_what_is_larger_than_a_piece_and_what_ends_at_one_arrives_whole(tmp_path: Path) -> None:
    sizes = [PIECE - 512, PIECE - 513, 1, PIECE, 3 * PIECE + 7, 0, *range(500, 520)]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:03}").write_bytes(os.urandom(size))
    for depth in range(1, 60):  # headers that no piece ends between
        (tmp_path / "z" / "/".join(["d" * 60] * depth)).mkdir(parents=True)
    deepest = "/".join(["z", *["d" * 60] * 59, "kept"])
    (tmp_path / deepest).write_text("deep")
    with tarfile.open(fileobj=io.BytesIO(whole(ContextTar(str(tmp_path), Patterns(patterns_of(f"z\n!{deepest}")))))) as tar:
        for number in range(len(sizes)):
            content = tar.extractfile(f"{number:03}")
            assert content is not None
            assert content.read() == (tmp_path / f"{number:03}").read_bytes()
        assert tar.getnames()[-1] == deepest
