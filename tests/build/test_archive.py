"""Archives told by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from wherry.build.archive import open_archive
from wherry.tree.tar import InvalidArchive
from wherry.tree.tar_fields import is_header


def plain() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a")
        info.size = 300_000
        tar.addfile(info, io.BytesIO(b"x" * 300_000))
    return buffer.getvalue()


def opened(tmp_path: Path, content: bytes) -> bytes | None:
    (tmp_path / "f").write_bytes(content)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        result = open_archive(fd, str(tmp_path))
    finally:
        os.close(fd)
    if result is None:
        return None
    with os.fdopen(result, "rb") as file:
        return file.read()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_every_compression_gives_the_plain_tar(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    assert opened(tmp_path, compress(plain())) == plain()


def test_parts_compressed_one_after_the_other_are_one_archive(tmp_path: Path) -> None:
    whole = plain()
    assert opened(tmp_path, gzip.compress(whole[:5000]) + gzip.compress(whole[5000:]) + b"\0" * 100) == whole


def test_what_is_no_tar_stays_as_it_is(tmp_path: Path) -> None:
    for content in (b"", b"text", gzip.compress(b"text"), b"\x1f\x8bbroken", b"\0" * 1024, gzip.compress(b"")):
        assert opened(tmp_path, content) is None


def test_a_tar_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    noise = io.BytesIO()
    with tarfile.open(fileobj=noise, mode="w") as tar:
        info = tarfile.TarInfo("a")
        info.size = 100_000
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    whole = gzip.compress(noise.getvalue())
    with pytest.raises(InvalidArchive):
        opened(tmp_path, whole[: len(whole) // 2])
    with pytest.raises(InvalidArchive):
        opened(tmp_path, whole[:-8] + b"\0" * 8)


def test_header_checksum_decides() -> None:
    assert is_header(plain()[:512])
    assert not is_header(b"x" * 512)
