from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.registry.conftest import digest_of

from wherry.registry.naming import AnyDigest
from wherry.registry.uploads import TooManyUploads, UploadBusy, Uploads, WrongDigest


def test_an_upload_goes_on_after_a_restart_and_is_hashed_whole(tmp_path: Path) -> None:
    first = Uploads(str(tmp_path))
    ident = first.begin("a")
    with first.open("a", ident) as upload:
        upload.write(b"12345")
    second = Uploads(str(tmp_path))
    assert second.size("a", ident) == 5
    with second.open("a", ident) as upload:
        upload.write(b"678")
        upload.check(AnyDigest(digest_of(b"12345678")))
        upload.check(AnyDigest(digest_of(b"12345678", "sha512")))
        upload.check(AnyDigest(digest_of(b"12345678")))
        os.rename(upload.path, tmp_path.parent / "taken")
    assert list(tmp_path.iterdir()) == []


def test_what_was_cut_is_not_hashed(tmp_path: Path) -> None:
    uploads = Uploads(str(tmp_path))
    with uploads.open("a", uploads.begin("a")) as upload:
        upload.write(b"12345")
        upload.write(b"wrong")
        upload.cut(5)
        upload.write(b"678")
        upload.check(AnyDigest(digest_of(b"12345678")))
        with pytest.raises(WrongDigest, match=digest_of(b"12345678")):
            upload.check(AnyDigest(digest_of(b"other")))
    assert list(tmp_path.iterdir()) == []


def test_one_writes_at_a_time(tmp_path: Path) -> None:
    uploads = Uploads(str(tmp_path))
    ident = uploads.begin("a")
    with uploads.open("a", ident), pytest.raises(UploadBusy):
        uploads.open("a", ident)
    uploads.cancel("a", ident)
    with pytest.raises(FileNotFoundError):
        uploads.open("a", ident)


@pytest.mark.parametrize("ident", ["", "..", "../../etc/passwd", "a" * 42, "a" * 44, "a" * 42 + "/", "é" * 43])
def test_a_name_that_was_never_given_out_is_not_looked_for(tmp_path: Path, ident: str) -> None:
    with pytest.raises(FileNotFoundError):
        Uploads(str(tmp_path)).open("a", ident)


def test_abandoned_uploads_expire_and_make_room(tmp_path: Path) -> None:
    uploads = Uploads(str(tmp_path), most=2)
    old, young = uploads.begin("a"), uploads.begin("a")
    with pytest.raises(TooManyUploads):
        uploads.begin("a")
    for path in tmp_path.iterdir():
        os.utime(path, (0, time.time() - 3600))
    with uploads.open("a", young) as upload:
        upload.write(b"x")
        os.utime(upload.path, (0, 0))
        assert uploads.sweep(1800) == 1  # one that is being written is not abandoned
    with pytest.raises(FileNotFoundError):
        uploads.size("a", old)
    uploads.begin("a")
    assert Uploads(str(tmp_path), most=2).sweep(-10) == 2
