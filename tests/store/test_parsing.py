"""Archives whose headers are read elsewhere and whose bodies are read here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.store.parsing import Outline, inline
from wherry.tree.tar import Entry, InvalidArchive, Kind, Limits
from wherry.tree.tar_reader import Reader

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import BASE, file, layer

Told = list[tuple[str, Kind, int, str, bytes]]


class Pieces:
    """A source that gives less than it is asked for."""

    def __init__(self, data: bytes, most: int) -> None:
        self._source = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._source.read(min(size, self._most))


def told(reader: Any) -> Told:
    return [(entry.name, entry.kind, entry.size, entry.link, b"".join(bytes(part) for part in iter(reader.read, b""))) for entry in reader]


def outlined(data: bytes, most: int = 1 << 20) -> Told:
    with Outline(inline, Pieces(data, most), Limits()) as outline:
        found = told(outline)
        outline.drain()
        return found


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 511, 512, 513, 70_000, 200_000]), max_size=6), most=st.sampled_from([1, 100, 512, 65536, 1 << 20])
)
def test_an_outline_tells_what_a_reader_tells(sizes: list[int], most: int) -> None:
    if most == 1:
        sizes = [size for size in sizes if size < 1000]
    data = layer(*(file(f"f{number}", os.urandom(size)) for number, size in enumerate(sizes)), *([Entry(name="é" * 90)] if sizes else []))
    assert outlined(data, most) == told(Reader(io.BytesIO(data)))


def test_what_is_not_read_is_passed_over() -> None:
    data = layer(file("a", b"1" * 100_000), file("b", b"2" * 100_000), file("c", b"3"))
    with Outline(inline, io.BytesIO(data), Limits()) as outline:
        names = [(entry.name, bytes(outline.read(3)) if entry.name != "b" else b"") for entry in outline]
    assert names == [("a", b"111"), ("b", b""), ("c", b"3")]


@pytest.mark.parametrize("cut", [100, 700, 20_000])
def test_a_cut_archive_is_refused(cut: int) -> None:
    with pytest.raises(InvalidArchive):
        outlined(layer(file("a", bytes(50_000)))[:cut])


def test_leaving_early_ends_the_work() -> None:
    with Outline(inline, io.BytesIO(BASE), Limits()) as outline:
        assert next(iter(outline)).name == "etc/"


def test_a_source_that_fails_is_told_as_it_failed() -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise ConnectionResetError("the client went")

    def entries() -> Iterator[Entry]:
        with Outline(inline, Broken(), Limits()) as outline:
            yield from outline

    with pytest.raises(ConnectionResetError, match="the client went"):
        list(entries())
