from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.spec.digest import Digest, sha256
from wherry.store.content import Content, ContentMismatch


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(str(tmp_path))


def staging(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "staging")


def test_a_blob_is_found_by_its_digest(content: Content, tmp_path: Path) -> None:
    with content.ingest() as writer:
        writer.write(b"ab")
        writer.write(memoryview(b"c"))
        assert not content.has(sha256(b"abc"))
        digest = writer.commit(sha256(b"abc"), 3)
    assert digest == sha256(b"abc")
    assert content.has(digest)
    assert content.size(digest) == 3
    assert content.read(digest) == b"abc"
    with content.open(digest) as blob:
        assert blob.read() == b"abc"
    assert list(content.digests()) == [digest]
    assert staging(tmp_path) == []
    content.delete(digest)
    content.delete(digest)
    assert not content.has(digest)


@pytest.mark.parametrize(("expected", "size"), [(sha256(b"other"), None), (None, 2), (sha256(b"abc"), 4)])
def test_a_blob_that_is_not_what_was_promised_is_not_kept(
    content: Content, tmp_path: Path, expected: Digest | None, size: int | None
) -> None:
    with content.ingest() as writer:
        writer.write(b"abc")
        with pytest.raises(ContentMismatch):
            writer.commit(expected, size)
    assert list(content.digests()) == []
    assert staging(tmp_path) == []


def test_a_blob_cannot_grow_beyond_its_limit(content: Content, tmp_path: Path) -> None:
    with content.ingest(limit=4) as writer:
        writer.write(b"abcd")
        with pytest.raises(ContentMismatch, match="larger than the 4 bytes"):
            writer.write(b"e")
    assert staging(tmp_path) == []


def test_an_interrupted_blob_leaves_nothing(content: Content, tmp_path: Path) -> None:
    def interrupted() -> None:
        with content.ingest() as writer:
            writer.write(b"abc")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert staging(tmp_path) == []


def test_a_damaged_blob_is_not_read(content: Content) -> None:
    digest = content.put(b"abc")
    Path(content.path(digest)).write_bytes(b"abd")
    with pytest.raises(ContentMismatch, match="damaged"):
        content.read(digest)
    with pytest.raises(ContentMismatch, match="damaged"):
        content.read(content.put(b"x" * 100), limit=10)


def test_a_string_that_is_no_digest_never_becomes_a_path(content: Content) -> None:
    for text in ("sha256:../../x", "../x", ""):
        with pytest.raises(ValueError, match="invalid digest"):
            content.path(text)  # type: ignore[arg-type]
