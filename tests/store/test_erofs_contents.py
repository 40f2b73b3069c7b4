"""A layer that is a tar with an index, looked into without a mount."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from wherry.store.erofs import Erofs
from wherry.store.erofs_contents import IndexContents
from wherry.store.records import Records
from wherry.tree.erofs_format import Damaged, Device
from wherry.tree.erofs_image import encode
from wherry.tree.erofs_node import new_directory

pytestmark = pytest.mark.root


def test_bytes_and_attributes_come_from_where_the_index_says(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("big", b"1" * 3_000_000), ("empty", b""), ("small", b"2" * 700)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = {"SCHILY.xattr.user.k": "v"} if name == "small" else {}
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("twin")
        link.type, link.linkname = tarfile.LNKTYPE, "small"
        tar.addfile(link)
    records = Records(str(tmp_path / "state.db"))
    snapshotter = Erofs(str(tmp_path), records, str(tmp_path / "mounts"))
    facts = snapshotter.apply(None, None, io.BytesIO(out.getvalue()))
    with snapshotter.contents(facts.diff_id) as contents:
        found = dict(contents.children(contents.root()))
        assert list(found) == [b"big", b"empty", b"small", b"twin"]
        assert [b"".join(contents.data(item)) for item in found.values()] == [b"1" * 3_000_000, b"", b"2" * 700, b"2" * 700]
        assert found[b"small"].identity == found[b"twin"].identity
        assert found[b"small"].links == 2
        assert contents.attributes(found[b"small"]) == {"user.k": b"v"}
    assert not (tmp_path / "mounts").exists() or not list((tmp_path / "mounts").iterdir())
    snapshotter.close()
    records.close()


def test_a_damaged_index_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"x" * 4096)
    with pytest.raises(Damaged, match="not a layer's index"):
        IndexContents(str(tmp_path / "index"), [])


def test_an_index_that_is_cut_while_it_is_read_is_said_to_be_damaged(tmp_path: Path) -> None:
    """And no signal ends the process."""
    root = new_directory()
    root.children = {f"{number:05}": new_directory() for number in range(2000)}
    path = tmp_path / "index"
    path.write_bytes(encode(root, [Device(512, "tar")]))
    with IndexContents(str(path), []) as contents:
        names = contents.children(contents.root())
        next(names)
        os.truncate(path, 4096)
        with pytest.raises(Damaged, match="not a layer's index"):
            list(names)
