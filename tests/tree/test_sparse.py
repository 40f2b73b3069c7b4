"""Sparse files lie behind each other, and their holes are holes."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile

import pytest

from wherry.tree.sparse import SparseFiles
from wherry.tree.tar import InvalidArchive
from wherry.tree.tar_reader import Reader


def archive(*segments: tuple[int, bytes], size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("holes")
        placed = ",".join(f"{offset},{len(data)}" for offset, data in segments)
        info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": placed, "GNU.sparse.size": str(size)}
        data = b"".join(data for _, data in segments)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_each_has_a_place_of_its_own_and_holes() -> None:
    with tempfile.TemporaryFile() as file:
        sparse = SparseFiles(file.fileno())
        places = []
        for size in (1 << 20, 5000):
            reader = Reader(io.BytesIO(archive((0, b"begin"), (4096, b"end"), size=size)))
            places.append(sparse.copy(next(iter(reader)), reader))
        assert places == [0, 1 << 20]
        for place, size in zip(places, (1 << 20, 5000), strict=True):
            assert os.pread(file.fileno(), size, place) == b"begin".ljust(4096, b"\0") + b"end" + bytes(size - 4099)
        assert os.fstat(file.fileno()).st_blocks * 512 < 1 << 17


def test_there_is_an_end_to_the_room() -> None:
    with tempfile.TemporaryFile() as file:
        sparse = SparseFiles(file.fileno())
        assert sparse.room((1 << 40) - 1) == 0
        with pytest.raises(InvalidArchive, match="sparse files of more than"):
            sparse.room(1)
