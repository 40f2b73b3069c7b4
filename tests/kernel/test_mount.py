"""What the kernel tells of mounts."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from wherry.kernel.mount import MOUNT_ATTR_RDONLY, overlay, sharing


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


@pytest.mark.root
def test_an_overlay_that_has_no_room_to_work_is_refused_instead_of_shown_for_reading_only(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    full = tmp_path / "full"
    full.mkdir()
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "64", str(tmp_path / "disk")], check=True)
    subprocess.run(["mount", "-o", "loop", str(tmp_path / "disk"), str(full)], check=True)
    try:
        for name in ("upper", "work"):
            (full / name).mkdir()
        layers = [str(tmp_path / "lower")], str(full / "upper"), str(full / "work")
        for number in range(os.statvfs(full).f_ffree):
            (full / f"file-{number}").touch()
        with pytest.raises(OSError, match="No space left") as caught:
            overlay(*layers)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full / "work"))
        os.close(overlay(*layers, attributes=MOUNT_ATTR_RDONLY))
        for path in full.glob("file-*"):
            path.unlink()
        fd = overlay(*layers)
        assert not os.fstatvfs(fd).f_flag & os.ST_RDONLY
        os.close(fd)
    finally:
        subprocess.run(["umount", str(full)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("name", ["back\\slash", "com,ma:colon", "long" * 60, "both\\" * 50])
def test_an_overlay_takes_directories_of_any_name(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    for part in ("lower", "upper", "work"):
        (root / part).mkdir(parents=True)
    (root / "lower/file").write_text("shown")
    fd = overlay([str(root / "lower")], str(root / "upper"), str(root / "work"))
    try:
        assert Path(f"/proc/self/fd/{fd}/file").read_text() == "shown"
        Path(f"/proc/self/fd/{fd}/made").touch()
        assert (root / "upper/made").exists()
    finally:
        os.close(fd)
