"""What the kernel tells of mounts."""

from __future__ import annotations

from pathlib import Path

from wherry.kernel.mount import sharing


def test_the_innermost_mount_tells_of_a_path_and_the_last_one_on_a_place(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n"
        "2 1 0:2 / /nowhere/a rw - tmpfs none rw\n"
        "3 2 0:3 / /nowhere/a/with\\040blank rw shared:5 master:2 - tmpfs none rw\n"
        "4 1 0:4 / /nowhere/a rw master:9 - tmpfs none rw\n"
    )
    assert sharing("/nowhere/ab", str(table)) == ("/", "shared:1")
    assert sharing("/nowhere/a/b", str(table)) == ("/nowhere/a", "master:9")
    assert sharing("/nowhere/a/with blank/x", str(table)) == ("/nowhere/a/with blank", "shared:5 master:2")
