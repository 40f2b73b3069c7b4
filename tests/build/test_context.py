"""Choosing and hashing files beneath a descriptor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.build.context import NothingThere, Source, read_ignore_file
from wherry.spec.patterns import Patterns


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    for name in ("a.txt", "b.md", "d/x", "d/e/y", "d/e/z.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "in").symlink_to("d/e")
    (tmp_path / "abs").symlink_to("/d")
    (tmp_path / "out").symlink_to("/etc")
    opened = Source.open(str(tmp_path))
    yield opened
    opened.close()


def fresh(source: Source, pattern: str, **options: Patterns) -> bytes:
    """The digest as a new build would compute it."""
    return b"".join(one.digest for one in Source(source.fd, **options).choose(pattern))


def test_directories_give_their_content_sorted_parents_first(source: Source) -> None:
    (chosen,) = source.choose("d")
    assert chosen.entries == ("e", "e/y", "e/z.md", "x")
    assert [one.name for one in source.choose("*.*")] == ["a.txt", "b.md"]


def test_links_resolve_inside_the_root(source: Source) -> None:
    assert source.choose("in")[0].path == "d/e"
    assert source.choose("abs/x")[0].path == "d/x"
    assert source.choose("../../d/x")[0].path == "d/x"
    for path in ("out", "out/passwd", "nosuch", "a.txt/x"):
        with pytest.raises(NothingThere):
            source.choose(path)
    assert source.choose("nosuch*") == []


def test_time_is_no_part_of_the_digest_but_content_mode_and_name_are(source: Source, tmp_path: Path) -> None:
    first = fresh(source, "d")
    os.utime(tmp_path / "d/x", (1, 1))
    assert fresh(source, "d") == first
    (tmp_path / "d/x").chmod(0o755)
    second = fresh(source, "d")
    assert second != first
    (tmp_path / "d/x").write_text("other")
    third = fresh(source, "d")
    assert third not in (first, second)
    (tmp_path / "d/x").rename(tmp_path / "d/w")
    assert fresh(source, "d") not in (first, second, third)


def test_ignored_files_are_no_part_of_it(source: Source) -> None:
    ignored = Source(source.fd, ignored=Patterns(["d/*", "!d/e", "d/e/y"]))
    assert ignored.choose("d")[0].entries == ("e", "e/z.md")
    with pytest.raises(NothingThere):
        ignored.choose("d/x")
    deep = Source(source.fd, ignored=Patterns(["d", "!d/e/z.md"]))
    assert deep.choose(".")[0].entries == ("a.txt", "abs", "b.md", "d", "d/e", "d/e/z.md", "in", "out")


def test_excludes_leave_out_inside_directories_and_single_files(source: Source) -> None:
    assert source.choose("d", ["e/*.md"])[0].entries == ("e", "e/y", "x")
    assert source.choose("b.md", ["*.md"]) == []


def test_the_ignore_file_beside_the_dockerfile_wins(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("a")
    (tmp_path / "x.dockerignore").write_text("b")
    with_own = Source.open(str(tmp_path))
    assert read_ignore_file(with_own, "x").matches("b")
    assert read_ignore_file(with_own, "Dockerfile").matches("a")
    with_own.close()


def test_two_thousand_small_files_are_hashed_quickly(tmp_path: Path) -> None:
    for number in range(2000):
        folder = tmp_path / f"m{number % 40}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(b"x" * (200 + number * 3))
    source = Source.open(str(tmp_path))
    started = time.process_time()
    source.choose(".")
    assert time.process_time() - started < 0.5
    source.close()
