"""Streams of every kind, whole, cut and hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from wherry.images.compression import GzipWriter, PlainReader
from wherry.tree.compression import BadStream

DATA = bytes(range(256)) * 5000 + b"x" * 2_000_000
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_every_kind_is_told_and_read(kind: str) -> None:
    packed = PACKERS[kind](DATA)
    reader = PlainReader(io.BytesIO(packed))
    assert reader.kind == kind
    assert b"".join(iter(lambda: reader.read(70_001), b"")) == DATA
    assert reader.consumed == len(packed)


def test_a_reader_that_is_left_leaves_nothing(tmp_path: Path) -> None:
    opened, threads = os.listdir("/proc/self/fd"), threading.active_count()
    (tmp_path / "noise.gz").write_bytes(gzip.compress(random.Random(1).randbytes(5 << 20), 1))
    with open(tmp_path / "noise.gz", "rb") as file:
        with PlainReader(file) as reader:
            assert len(reader.read(70_001)) == 70_001
        assert reader.closed
    with pytest.raises(BadStream, match="unexpected EOF"):
        PlainReader(io.BytesIO(gzip.compress(DATA)[:-5])).read()
    assert (os.listdir("/proc/self/fd"), threading.active_count()) == (opened, threads)


def test_what_breaks_the_source_off_is_what_is_raised() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if data := super().read(size):
                return data
            raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        PlainReader(Broken(gzip.compress(DATA)[:1000])).read()


def test_gzip_out_is_the_same_for_the_same_input() -> None:
    def packed() -> bytes:
        writer = GzipWriter()
        return writer.compress(DATA) + writer.finish()

    assert packed() == packed()
    assert gzip.decompress(packed()) == DATA


def test_what_does_not_shrink_is_stored_and_the_same_bytes_come_out_however_they_went_in() -> None:
    noise = random.Random(1).randbytes(3 << 20)
    text = b"the same line again and again\n" * 90_000
    for data in (b"", b"x", text, noise, noise + text, text + noise + text + noise[:70_000], text[: 1 << 20] + noise[: 1 << 20]):
        packed = set()
        for step in (len(data) or 1, 1 << 20, 300_001):
            writer = GzipWriter()
            pieces = [writer.compress(data[start : start + step]) for start in range(0, len(data), step)]
            packed.add(b"".join([*pieces, writer.finish()]))
        [one] = packed
        assert gzip.decompress(one) == data
        assert PlainReader(io.BytesIO(one)).read() == data
        assert len(one) < len(data) * 1.0002 + 60
    assert len(one) < (1 << 20) * 1.1
