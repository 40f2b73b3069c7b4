"""What every ``Objects`` must do; run by the tests of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.registry.objects import Objects


class ObjectsSuite:
    def test_what_is_written_is_read(self, objects: Objects) -> None:
        objects.write("a/b", b"one")
        objects.write("a/b", b"two!")
        assert (objects.read("a/b"), objects.size("a/b"), objects.exists("a/b")) == (b"two!", 4, True)
        assert objects.modified("a/b") > 1_700_000_000

    def test_what_is_absent_is_not_found(self, objects: Objects) -> None:
        assert not objects.exists("a/b")
        for work in (objects.read, objects.size, objects.modified):
            with pytest.raises(FileNotFoundError):
                work("a/b")
        with pytest.raises(FileNotFoundError):
            list(objects.pieces("a/b", 0, 10))
        objects.delete("a/b")
        assert objects.children("a") == []

    def test_children_are_listed_once_and_gone_with_their_last_key(self, objects: Objects) -> None:
        for key in ("a/b/1", "a/b/2", "a/c", "a/:x", "ab/d"):
            objects.write(key, b"")
        assert objects.children("a") == [":x", "b", "c"]
        assert objects.children("a/b") == ["1", "2"]
        objects.delete("a/b/1")
        objects.delete("a/b/2")
        assert objects.children("a") == [":x", "c"]
        objects.write("a/b/1", b"")
        assert objects.children("a") == [":x", "b", "c"]

    def test_a_file_is_adopted_and_read_in_pieces(self, objects: Objects, tmp_path: Path) -> None:
        data = bytes(range(256)) * 5000
        path = tmp_path / "upload"
        path.write_bytes(data)
        objects.adopt("blobs/x", str(path))
        assert not path.exists()
        assert b"".join(objects.pieces("blobs/x", 0, len(data))) == data
        assert b"".join(objects.pieces("blobs/x", 1000, 5)) == data[1000:1005]
        assert list(objects.pieces("blobs/x", 5, 0)) == []

    @pytest.mark.parametrize("key", ["", "a//b", "../a", "a/..", "a/.b", "/a", "a/"])
    def test_a_key_that_is_none_is_refused(self, objects: Objects, key: str) -> None:
        with pytest.raises(ValueError, match="not a key"):
            objects.write(key, b"")
