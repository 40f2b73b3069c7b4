"""Layers on their way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.images.outgoing import is_dense
from wherry.store.contents import DirectoryContents

_DENSE = os.urandom(1 << 20)
_TEXT = b"a line that was written before\n" * (1 << 15)


@pytest.mark.parametrize(
    ("files", "dense"),
    [
        ({}, False),
        ({"small": _DENSE[:1000]}, False),
        ({"model": _DENSE * 2}, True),
        ({"model": _DENSE * 2, "README": b"what it is"}, True),
        ({"model": _DENSE * 2, "text": _TEXT}, False),
        ({"model": _DENSE * 2, **{f"{number}": b"" for number in range(300)}}, False),
    ],
)
def test_a_layer_is_dense_when_nearly_all_of_it_is_few_large_files_that_do_not_shrink(
    tmp_path: Path, files: dict[str, bytes], dense: bool
) -> None:
    (tmp_path / "d").mkdir()
    for name, data in files.items():
        (tmp_path / "d" / name).write_bytes(data)
    with DirectoryContents(str(tmp_path)) as contents:
        assert is_dense(contents) is dense
