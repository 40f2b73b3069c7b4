"""Placing files beneath a root that may be hostile."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.tree.ownership import apply_mode, resolve_owner
from wherry.tree.place import make_directory, place
from wherry.tree.plan import Item, Plan

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change owners")


def put(root: Path, source: Path, **plan: object) -> None:
    root_fd, source_fd = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (root, source))
    try:
        place(root_fd, Plan(**plan), [source_fd])  # type: ignore[arg-type]  # the table below is the type
    finally:
        os.close(root_fd)
        os.close(source_fd)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    root, source = tmp_path / "root", tmp_path / "source"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("bob:x:1000:1001::/:/bin/sh\nbroken\n")
    (root / "etc/group").write_text("bobs:x:1001:\n")
    (source / "d").mkdir(parents=True)
    (source / "f").write_text("f")
    (source / "d/g").write_text("g")
    os.link(source / "d/g", source / "d/h")
    (source / "d/l").symlink_to("/etc/passwd")
    return root, source


FILE = (Item(kind="file", descriptor=0, path="f", name="f"),)
TREE = (Item(kind="tree", descriptor=0, path="d", entries=("g", "h", "l")),)


@needs_root
@pytest.mark.root
def test_trees_keep_links_and_hard_links(trees: tuple[Path, Path]) -> None:
    root, source = trees
    put(root, source, destination="/new/dir", items=TREE, owner="bob")
    made = root / "new/dir"
    assert os.readlink(made / "l") == "/etc/passwd"
    assert (made / "g").stat().st_ino == (made / "h").stat().st_ino
    assert ((root / "new").stat().st_uid, (made / "g").stat().st_gid) == (1000, 1001)


@needs_root
@pytest.mark.root
def test_the_destination_has_the_time_of_the_last_directory_unless_a_file_followed(trees: tuple[Path, Path]) -> None:
    root, source = trees
    old = tuple(Item(**{**asdict(TREE[0]), "entries": entries, "mtime_ns": mtime_ns}) for entries, mtime_ns in ((("g",), 5), ((), 7)))
    put(root, source, destination="/made", items=old)
    assert (root / "made").stat().st_mtime_ns == 7
    put(root, source, destination="/etc", items=(*old, *FILE), directory=True)
    assert time.time_ns() - (root / "etc").stat().st_mtime_ns < 60_000_000_000


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("link", ["/../../../../out", "../../../out", "/out"])
def test_links_of_the_root_stay_inside(trees: tuple[Path, Path], link: str) -> None:
    root, source = trees
    (root.parent / "out").mkdir()
    (root / "out").mkdir()
    (root / "esc").symlink_to(link)
    put(root, source, destination="/esc/f", items=FILE)
    put(root, source, destination="/esc/", items=TREE)
    assert os.listdir(root.parent / "out") == []
    assert sorted(os.listdir(root / "out")) == ["f", "g", "h", "l"]


@needs_root
@pytest.mark.root
def test_a_file_replaces_the_end_of_a_link_or_with_link_the_link(trees: tuple[Path, Path]) -> None:
    root, source = trees
    (root / "target").write_text("old")
    (root / "link").symlink_to("/target")
    put(root, source, destination="/link", items=FILE)
    assert (root / "target").read_text() == "f"
    put(root, source, destination="/link", items=FILE, replace_links=True)
    assert not (root / "link").is_symlink()


@needs_root
@pytest.mark.root
def test_loops_and_wrong_kinds_are_errors(trees: tuple[Path, Path]) -> None:
    root, source = trees
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "file").write_text("")
    for plan in ({"destination": "/a", "items": FILE}, {"destination": "/file", "items": TREE}, {"destination": "/file/x", "items": FILE}):
        with pytest.raises(OSError):
            put(root, source, **plan)


@needs_root
@pytest.mark.root
def test_owners_come_from_the_images_own_files(trees: tuple[Path, Path]) -> None:
    fd = os.open(trees[0], os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert resolve_owner(fd, "bob") == (1000, 1001)
        assert resolve_owner(fd, "7") == (7, 7)
        assert resolve_owner(fd, "bob:9") == (1000, 9)
        assert resolve_owner(fd, "0:bobs") == (0, 1001)
        for owner, message in (("nosuch", "no such user: nosuch"), ("bob:none", "no such group: none"), (str(2**31), "must be in range")):
            with pytest.raises(LookupError, match=message):
                resolve_owner(fd, owner)
        assert make_directory(fd, "/w/x", "bob")
        assert not make_directory(fd, "/w/x", "bob")
        assert make_directory(fd, "/n", "nosuch")
        assert os.stat("n", dir_fd=fd).st_uid == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("text", "current", "directory", "mode"),
    [
        ("755", 0o600, False, 0o755),
        ("04711", 0o600, False, 0o4711),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("a+x", 0o644, False, 0o755),
        ("go-r", 0o644, False, 0o600),
        ("g=u", 0o640, False, 0o660),
        ("+x", 0o644, False, 0o755),
        ("u+s,o+t", 0o755, False, 0o5755),
    ],
)
def test_modes(text: str, current: int, directory: bool, mode: int) -> None:
    assert apply_mode(text, current, directory=directory) == mode


def test_bad_modes_are_told_as_buildkit_tells_them() -> None:
    with pytest.raises(ValueError, match=r"invalid chmod parameter: '99999'\. it should be octal string and between 0 and 07777"):
        apply_mode("99999", 0, directory=False)
    with pytest.raises(ValueError, match="invalid syntax"):
        apply_mode("zzz", 0, directory=False)


def test_plans_travel_as_json() -> None:
    plan = Plan(destination="/x", items=TREE, owner="a", mode="1", directory=True)
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ugoa+-=rwxXst07,", max_size=10))
def test_any_mode_is_applied_or_refused(text: str) -> None:
    try:
        assert 0 <= apply_mode(text, 0o644, directory=False) <= 0o7777
    except ValueError:
        return
