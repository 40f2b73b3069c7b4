"""Streams of every kind, whole, cut and hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import resource
from collections.abc import Callable

import pytest
import zstandard

from wherry.tree.compression import BadStream, decompress, kind_of

DATA = bytes(range(256)) * 5000 + b"x" * 2_000_000
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def plain(data: bytes) -> bytes:
    source = io.BytesIO(data)
    return b"".join(decompress(kind_of(data), lambda: source.read(50_000)))


@pytest.mark.parametrize("kind", PACKERS)
def test_members_follow_each_other(kind: str) -> None:
    packed = PACKERS[kind](DATA)
    assert kind_of(packed) == kind
    assert plain(packed) == DATA
    assert plain(packed * 2) == DATA * 2


@pytest.mark.parametrize("kind", PACKERS)
def test_a_stream_that_is_cut_off_or_goes_on_is_refused(kind: str) -> None:
    packed = PACKERS[kind](DATA)
    for data in (packed[:-1], packed[:-5], packed[:40], packed + b"garbage", packed + packed[:20]):
        with pytest.raises(BadStream):
            plain(data)


def test_every_frame_of_zstd_is_followed_to_its_end() -> None:
    skipped = b"\x53\x2a\x4d\x18" + (70_000).to_bytes(4, "little") + bytes(70_000)
    for level, size, checksum, known in itertools.product((1, 19), (0, 1, 300, 400_000), (True, False), (True, False)):
        packer = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=known)
        data = DATA[-(size // 2) :] + DATA[: size - size // 2] if size else b""
        frame = packer.compress(data)
        assert plain(frame + skipped + frame) == data * 2
        with pytest.raises(BadStream):
            plain(skipped + frame[:-1])


def test_a_stream_may_begin_with_a_frame_to_be_skipped() -> None:
    """Source: RFC 8878, 3.1.2; pzstd begins so."""
    packed = PACKERS["zstd"](DATA)
    for first in (b"\x50", b"\x5f"):
        skipped = first + b"\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
        assert plain(skipped + packed) == plain(skipped * 2 + packed + skipped) == DATA
    assert kind_of(b"\x60\x2a\x4d\x18\x04\x00") == kind_of(b"\x50") == ""


def test_padding_after_gzip_is_no_garbage() -> None:
    assert plain(gzip.compress(b"a") + bytes(600_000)) == b"a"


def test_what_the_source_raises_is_no_bad_stream() -> None:
    def gone() -> bytes:
        raise ConnectionResetError("gone")

    for kind in PACKERS:
        with pytest.raises(ConnectionResetError, match="gone"):
            next(decompress(kind, gone))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_costs_no_memory(kind: str) -> None:
    data = bytes(1 << 28)
    bomb = io.BytesIO(gzip.compress(data, 1) if kind == "gzip" else PACKERS[kind](data))
    del data
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(len(block) for block in decompress(kind, lambda: bomb.read(1 << 19))) == 1 << 28
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
