from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wherry.tree.remove import remove, remove_content, remove_empty


def test_a_tree_is_removed_and_what_its_symlinks_name_is_not(tmp_path: Path) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/file").touch()
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/b/file").touch()
    (tmp_path / "tree/a/link").symlink_to(tmp_path / "canary")
    (tmp_path / "link").symlink_to(tmp_path / "canary")
    fd = os.open(tmp_path, os.O_RDONLY)
    for name in ("tree", "link", "absent"):
        remove(fd, name)
    os.close(fd)
    assert os.listdir(tmp_path) == ["canary"]
    assert (tmp_path / "canary/file").exists()


def test_what_is_known_to_be_nearly_empty_goes_at_once_and_anything_else_stays(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "w/work").mkdir(parents=True)
        (tmp_path / name / "log").touch()
    (tmp_path / "two/w/work/file").touch()
    assert remove_empty(str(tmp_path / "one"), ("d", "w/work", "w"), ("log", "absent"))
    assert not remove_empty(str(tmp_path / "two"), ("d", "w/work", "w"))
    assert (tmp_path / "two/w/work/file").exists()
    assert os.listdir(tmp_path) == ["two"]


def test_a_tree_deeper_than_any_path_is_removed(abyss: Path) -> None:
    first = fd = os.open(abyss, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("long-name-of-a-directory", dir_fd=fd)
        inner = os.open("long-name-of-a-directory", os.O_RDONLY, dir_fd=fd)
        if fd != first:
            os.close(fd)
        fd = inner
    os.close(fd)
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        remove_content(first)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert os.listdir(abyss) == []
    finally:
        os.close(first)


def test_names_to_keep_are_kept(tmp_path: Path) -> None:
    for name in ("a", "b/x", "c/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    remove_content(fd, keep=["b"])
    os.close(fd)
    assert os.listdir(tmp_path) == ["b"]
    assert (tmp_path / "b/x").exists()


FILL = """
import itertools, os, sys, time
for number in itertools.count():
    os.mkdir(f"{sys.argv[1]}/{number}")
    if number == 500:
        print("begun", flush=True)
        end = time.monotonic() + 0.3
    if number >= 500 and time.monotonic() > end:
        break
"""


def test_a_tree_is_removed_though_somebody_goes_on_to_fill_it_for_a_while(tmp_path: Path) -> None:
    (tmp_path / "tree/inner").mkdir(parents=True)
    fd = os.open(tmp_path, os.O_RDONLY)
    command = [sys.executable, "-c", FILL, str(tmp_path / "tree/inner")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as filler:
        assert filler.stdout is not None
        assert filler.stdout.readline() == b"begun\n"
        remove(fd, "tree")
    os.close(fd)
    assert os.listdir(tmp_path) == []
