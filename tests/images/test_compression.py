"""Streams of every kind, whole, cut and hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import resource
from collections.abc import Callable

import pytest
import zstandard

from wherry.images.compression import BadStream, GzipWriter, PlainReader

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
    reader = PlainReader(io.BytesIO(PACKERS[kind](DATA)))
    assert reader.kind == kind
    assert b"".join(iter(lambda: reader.read(70_001), b"")) == DATA
    if kind:
        assert PlainReader(io.BytesIO(PACKERS[kind](DATA) * 2)).read() == DATA * 2


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz"])
def test_a_stream_that_is_cut_off_or_goes_on_is_refused(kind: str) -> None:
    for data in (PACKERS[kind](DATA)[:-5], PACKERS[kind](DATA) + b"garbage"):
        with pytest.raises(BadStream):
            PlainReader(io.BytesIO(data)).read()


def test_padding_after_gzip_is_no_garbage() -> None:
    assert PlainReader(io.BytesIO(gzip.compress(b"a") + bytes(600_000))).read() == b"a"


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_costs_no_memory(kind: str) -> None:
    bomb = PACKERS[kind](bytes(1 << 28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader = PlainReader(io.BytesIO(bomb))
    assert sum(len(block) for block in iter(lambda: reader.read(1 << 20), b"")) == 1 << 28
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


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
