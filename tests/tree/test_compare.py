from __future__ import annotations

import os
import subprocess
from pathlib import Path

from wherry.tree.compare import Difference, Kind, compare


def differences(old: Path | None, new: Path) -> list[Difference]:
    old_fd = None if old is None else os.open(old, os.O_RDONLY)
    new_fd = os.open(new, os.O_RDONLY)
    try:
        return compare(old_fd, new_fd)
    finally:
        os.close(new_fd)
        if old_fd is not None:
            os.close(old_fd)


def test_what_differs_is_found_with_its_parents(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("same/file", "changed/deep/file", "deleted/file", "mode", "kind", "dir/file"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_bytes(b"1")
    subprocess.run(["cp", "-a", str(old), str(new)], check=True, timeout=100)
    (new / "changed/deep/file").write_bytes(b"22")
    (new / "mode").chmod(0o600)
    (new / "kind").unlink()
    (new / "kind").mkdir()
    (new / "kind/in").touch()
    (new / "added/in").mkdir(parents=True)
    subprocess.run(["rm", "-r", str(new / "deleted"), str(new / "dir")], check=True, timeout=100)
    (new / "dir").symlink_to("same")
    assert [(one.path, one.kind) for one in differences(old, new)] == [
        ("added", Kind.ADDED),
        ("added/in", Kind.ADDED),
        ("changed", Kind.CHANGED),
        ("changed/deep", Kind.CHANGED),
        ("changed/deep/file", Kind.CHANGED),
        ("deleted", Kind.DELETED),
        ("dir", Kind.CHANGED),
        ("kind", Kind.CHANGED),
        ("kind/in", Kind.ADDED),
        ("mode", Kind.CHANGED),
    ]


def test_equal_trees_have_no_difference_and_beside_nothing_all_is_added(tmp_path: Path) -> None:
    (tmp_path / "new/d").mkdir(parents=True)
    assert differences(tmp_path / "new", tmp_path / "new") == []
    assert differences(None, tmp_path / "new") == [Difference(path="d", kind=Kind.ADDED)]
