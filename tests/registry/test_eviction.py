"""A bound on real files; a whole cache with one is in test_through.py."""

from __future__ import annotations

import os
from pathlib import Path

from tests.registry.conftest import digest_of

from wherry.registry.eviction import Bound
from wherry.registry.gate import Gate
from wherry.registry.holdings import Holdings
from wherry.registry.naming import AnyDigest
from wherry.registry.objects import Directory


def test_what_was_read_longest_ago_goes_from_every_repository(tmp_path: Path) -> None:
    holdings = Holdings(Directory(str(tmp_path / "objects"), str(tmp_path / "staging")), Gate(str(tmp_path / "gate")))

    def add(letter: bytes, age_s: int = 0) -> AnyDigest:
        data = letter * 100
        digest = AnyDigest(digest_of(data))
        (tmp_path / "upload").write_bytes(data)
        holdings.add_blob("app", digest, str(tmp_path / "upload"))
        holdings.mount_blob("beside", digest)
        path = holdings.local_path(digest)
        assert path is not None
        os.utime(path, (0, os.stat(path).st_mtime - age_s))
        return digest

    oldest, old, new = add(b"a", 300), add(b"b", 200), add(b"c", 100)
    bound = Bound(holdings, 300)
    assert set(holdings.all_blobs()) == {oldest, old, new}
    bound.was_read(oldest)
    newest = add(b"d")
    bound.has_grown(100)
    assert set(holdings.all_blobs()) == {oldest, newest}  # nine tenths of 300 are less than three blobs
    assert not any(holdings.has_blob(name, digest) for name in ("app", "beside") for digest in (old, new))
    assert all(holdings.has_blob(name, digest) for name in ("app", "beside") for digest in (oldest, newest))
    bound.was_read(old)  # which is gone
    Bound(holdings, 120)
    assert holdings.all_blobs() == [newest]
