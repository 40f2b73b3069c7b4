"""Whatever fits into memory, the image is the same."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from wherry.tree import erofs_log, erofs_writer, parsing
from wherry.tree.erofs_format import TooLarge
from wherry.tree.erofs_image import decode
from wherry.tree.tar import InvalidArchive

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from indexes import ROOT, files, index_of, names
from snapshotter_suite import BASE


def many() -> bytes:
    """One directory with more names than its blocks may have in memory, and links to a third of them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(3000):
            info = tarfile.TarInfo(f"d/{number * 7919 % 3000:05}{'n' * (number % 60)}")
            info.mtime = 1
            tar.addfile(info)
            if number % 3 == 0:
                link = tarfile.TarInfo(f"links/{number}")
                link.type, link.linkname = tarfile.LNKTYPE, info.name
                tar.addfile(link)
            if number % 50 == 0:
                symlink = tarfile.TarInfo(f"links/s{number}")
                symlink.type, symlink.linkname = tarfile.SYMTYPE, "t" * (1 + number)
                tar.addfile(symlink)
    return out.getvalue()


@pytest.mark.parametrize("tar", [many(), BASE], ids=["many", "base"])
def test_an_image_is_the_same_however_little_fits_into_memory(monkeypatch: pytest.MonkeyPatch, tar: bytes) -> None:
    whole = index_of(tar)
    monkeypatch.setattr(erofs_log, "_HELD", 2000)
    monkeypatch.setattr(erofs_writer, "_CHUNK", 4096)
    assert index_of(tar) == whole


def test_links_are_counted_where_they_show() -> None:
    root = decode(index_of(many()))
    found = (root.children or {})["d"].children or {}
    links = (root.children or {})["links"].children or {}
    assert len(found) == 3000
    assert len(links) == 1060
    assert sorted(node.links for node in found.values()) == [1] * 2000 + [2] * 1000
    assert all(links[name] in found.values() for name in links if not name.startswith("s"))
    assert {len(links[name].link) for name in links if name.startswith("s")} == set(range(1, 3000, 50))
    assert len(names(root)) == 4062


def test_an_image_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erofs_writer, "IMAGE_BLOCKS", 100)
    with pytest.raises(InvalidArchive, match="the archive needs an image of more than"):
        index_of(many())
    assert issubclass(TooLarge, ValueError)


@pytest.mark.parametrize("folders", [1, 500])
def test_memory_does_not_grow_with_the_number_of_files(monkeypatch: pytest.MonkeyPatch, folders: int) -> None:
    monkeypatch.setattr(erofs_log, "_HELD", 1 << 18)
    monkeypatch.setattr(erofs_writer, "_CHUNK", 1 << 16)
    info = tarfile.TarInfo()
    with files(4) as fds:
        for number in range(6000):
            info.name = f"d{number % folders}/{number}"
            os.write(fds[0], info.tobuf(tarfile.GNU_FORMAT))
        tracemalloc.start()
        try:
            parsing.index({"root": ROOT, "lowest": True}, fds)
            assert tracemalloc.get_traced_memory()[1] < 900_000  # with all names at once it were 2 MB
        finally:
            tracemalloc.stop()
