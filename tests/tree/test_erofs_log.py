from __future__ import annotations

import os
import random
import tempfile

import pytest

from wherry.tree import erofs_log
from wherry.tree.erofs_log import Log


@pytest.mark.parametrize("held", [1 << 20, 5000, 1])
def test_records_come_in_the_order_of_their_bytes_however_few_fit_into_memory(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(erofs_log, "_HELD", held)
    chance = random.Random(held)
    records = [chance.randbytes(chance.randrange(1, 90)) for _ in range(1000)]
    with tempfile.TemporaryFile() as scratch:
        log = Log(scratch.fileno())
        for record in records:
            log.add(record)
        assert list(log) == list(log) == sorted(records)
        assert log.end == os.fstat(scratch.fileno()).st_size
        assert (log.end > 0) == (held < 1 << 20)
