"""The functions that read archives, on descriptors alone; the file may grow meanwhile."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from wherry.tree import parsing
from wherry.tree.erofs_image import decode
from wherry.tree.growing import MARK, GrowingFile
from wherry.tree.tar import InvalidArchive
from wherry.tree.tar_reader import Reader

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from snapshotter_suite import BASE, file, layer

ROOT = [0o755, 0, 0, 0]


def fds(tmp_path: Path, tar: bytes) -> list[int]:
    (tmp_path / "tar").write_bytes(tar)
    return [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("tar", "sparse", "index", "scratch")]


def test_a_growing_tar_gives_the_index_of_the_whole_one(tmp_path: Path) -> None:
    data = BASE[:-1024] + layer(file("big", os.urandom(300_000)), file("last", b"x" * 700))
    whole = fds(tmp_path, data)
    expected = parsing.index({"root": ROOT, "lowest": True}, whole)
    index = (tmp_path / "index").read_bytes()
    growing = tmp_path / "growing"
    growing.mkdir()
    reader, writer = os.pipe()
    given = [*fds(growing, b""), reader]
    found: dict[str, object] = {}
    thread = threading.Thread(target=lambda: found.update(parsing.index({"root": ROOT, "lowest": True}, given)))
    thread.start()
    for start in range(0, len(data), 777):
        os.pwrite(given[0], data[start : start + 777], start)
        os.write(writer, MARK.pack(min(start + 777, len(data))))
    os.close(writer)
    thread.join()
    assert found == expected
    assert (growing / "index").read_bytes() == index
    assert sorted(decode(index).children or {}) == ["big", "bin", "etc", "hard", "last", "link", "opt"]
    for fd in (*whole, *given):
        os.close(fd)


@pytest.mark.parametrize("cut", [100, 512 + 100, 200_000])
def test_a_tar_cut_off_in_a_body_is_refused_though_bodies_are_passed_over(tmp_path: Path, cut: int) -> None:
    given = fds(tmp_path, layer(file("big", bytes(300_000)))[:cut])
    with pytest.raises(InvalidArchive, match="unexpected EOF"):
        parsing.index({"root": ROOT, "lowest": True}, given)
    for fd in given:
        os.close(fd)


def test_bodies_are_not_read(tmp_path: Path) -> None:
    """Of a file with a huge body only the headers exist."""
    first, last = layer(file("first"))[:512], layer(file("last"))
    info = tarfile.TarInfo("huge")
    info.size = 1 << 40
    path = tmp_path / "tar"
    with path.open("wb") as out:
        out.write(first + info.tobuf(tarfile.GNU_FORMAT))
        out.seek(1 << 40, io.SEEK_CUR)
        out.write(last)
    with path.open("rb") as tar:
        limits = parsing._limits({"limits": {"total_bytes": 1 << 50}})
        assert [entry.name for entry in Reader(GrowingFile(tar.fileno()), limits)] == ["first", "huge", "last"]
