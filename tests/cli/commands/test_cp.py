"""What becomes of names in ``cp``, and archives that a container sends."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from wherry.cli.commands.cp import Found, _renamer, placement, split_container, split_path
from wherry.cli.flags import Failure
from wherry.cli.tar_reader import unpack
from wherry.cli.tar_writer import pack


def there(path: str, *, directory: bool) -> Found:
    return Found(path, exists=True, directory=directory)


def absent(path: str) -> Found:
    return Found(path, exists=False, directory=False)


@pytest.mark.parametrize(
    ("base", "directory", "destination", "expected"),
    [
        ("f", False, there("/d", directory=True), ("/d", "f")),
        ("f", False, there("/d/g", directory=False), ("/d", "g")),
        ("f", False, absent("/d/g"), ("/d", "g")),
        ("s", True, there("/d", directory=True), ("/d", "s")),
        ("s", True, absent("/d/t"), ("/d", "t")),
        (".", True, absent("/d/t/"), ("/d", "t")),
        (".", True, there("/d", directory=True), ("/d", ".")),
    ],
)
def test_a_copy_lands_where_docker_puts_it(base: str, directory: bool, destination: Found, expected: tuple[str, str]) -> None:
    assert placement(source_base=base, source_directory=directory, destination=destination) == expected


def test_what_cannot_be_placed_is_told() -> None:
    with pytest.raises(Failure, match="cannot copy directory"):
        placement(source_base="s", source_directory=True, destination=there("/f", directory=False))
    with pytest.raises(Failure, match="no such directory"):
        placement(source_base="f", source_directory=False, destination=absent("/nodir/"))


def test_words_are_split_at_the_containers_name_only() -> None:
    assert split_container("c:/x") == ("c", "/x")
    assert split_container("./a:b") == ("", "./a:b")
    assert split_container("/a:b") == ("", "/a:b")
    assert split_path("/a/b/.") == ("/a/b", ".")
    assert split_path("a/") == (".", "a")


class Bytes:
    """A container's answer, already here."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for entry, content in entries:
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, mode
    return made


def take(content: bytes, directory: Path, name: str = "s") -> int:
    return unpack(Bytes(content), str(directory), _renamer("s", name, whole=False), owners=False)  # type: ignore[arg-type]  # reads alike


def test_a_tree_packed_and_unpacked_is_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / ("n" * 120)).write_bytes(b"long")
    (source / "ümlaut").write_bytes(os.urandom(300_000))
    os.link(source / "ümlaut", source / "zwei")
    (source / "link").symlink_to("sub")
    target = tmp_path / "target"
    target.mkdir()
    take(b"".join(pack(str(source), "s")), target, "made")
    made = target / "made"
    assert sorted(os.listdir(made)) == sorted(os.listdir(source))
    assert (made / "ümlaut").read_bytes() == (source / "ümlaut").read_bytes()
    assert (made / "zwei").stat().st_ino == (made / "ümlaut").stat().st_ino
    assert (made / "sub" / ("n" * 120)).read_bytes() == b"long"
    assert os.readlink(made / "link") == "sub"


@pytest.mark.parametrize("name", ["s/../../out", "s/a/../../../out"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(Failure, match="leads out"):
        take(archive((entry(name), b"x")), tmp_path / "in")
    assert os.listdir(tmp_path) == ["in"]


def test_a_link_in_the_archive_is_not_walked_through(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    hostile = archive((entry("s/l", tarfile.SYMTYPE, str(outside)), b""), (entry("s/l/evil"), b"x"))
    with pytest.raises(Failure, match="cannot copy to s/l/evil"):
        take(hostile, inside)
    assert os.listdir(outside) == []


def test_a_hard_link_to_the_outside_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(Failure):
        take(archive((entry("s/h", tarfile.LNKTYPE, "../secret"), b"")), inside)
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_set_id_bits_of_a_container_do_not_reach_this_machine(tmp_path: Path) -> None:
    take(archive((entry("s/su", mode=0o4755), b"x")), tmp_path)
    assert (tmp_path / "s" / "su").stat().st_mode & 0o7777 == 0o755
