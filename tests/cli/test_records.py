"""Streams of JSON lines."""

from __future__ import annotations

import pytest

from wherry.cli.records import batches


def test_records_come_whole_however_the_stream_is_cut() -> None:
    data = b'{"a":1}\n{"a":2}\n{"a":3}\n'
    for size in (1, 5, 8, 100):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [record["a"] for batch in batches(pieces) for record in batch] == [1, 2, 3]


def test_an_empty_stream_is_one_empty_batch_and_a_cut_one_is_an_error() -> None:
    assert list(batches([])) == [[]]
    with pytest.raises(ValueError, match="inside a record"):
        list(batches([b'{"a":1}\n{"a"']))
