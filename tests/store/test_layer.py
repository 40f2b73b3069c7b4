from __future__ import annotations

import io
import threading

import pytest

from wherry.spec.digest import sha256
from wherry.store.layer import DigestMismatch, HashingSink, HashingSource, NullSink, hash_only

DATA = bytes(range(256)) * 9000


def test_a_source_is_hashed_while_it_is_read_and_its_thread_ends() -> None:
    with HashingSource(io.BytesIO(DATA)) as source:
        parts = list(iter(lambda: source.read(10_000), b""))
        assert b"".join(parts) == DATA
        assert source.digest() == sha256(DATA)
    with pytest.raises(RuntimeError):
        fail_while_reading()
    assert not [thread for thread in threading.enumerate() if thread.name == "layer"]


def fail_while_reading() -> None:
    with HashingSource(io.BytesIO(DATA)) as source:
        source.read(10)
        raise RuntimeError


def test_a_sink_hashes_what_it_passes_on_also_to_a_raw_file_that_takes_less() -> None:
    class Slow:
        def __init__(self) -> None:
            self.taken = b""

        def write(self, data: bytes | bytearray | memoryview, /) -> int:
            self.taken += bytes(data[:1000])
            return min(len(data), 1000)

    slow = Slow()
    with HashingSink(slow) as sink:
        for start in range(0, len(DATA), 50_001):
            sink.write(DATA[start : start + 50_001])
        assert slow.taken == DATA
        assert sink.digest() == sha256(DATA)
    with HashingSink(NullSink()) as sink:
        sink.write(b"")
        assert sink.digest() == sha256(b"")
    assert not [thread for thread in threading.enumerate() if thread.name == "layer"]


def test_a_layer_that_is_there_already_is_still_checked() -> None:
    assert hash_only(io.BytesIO(DATA), sha256(DATA)) == sha256(DATA)
    with pytest.raises(DigestMismatch, match="expected"):
        hash_only(io.BytesIO(DATA), sha256(b"other"))
