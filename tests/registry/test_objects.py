from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.registry.objects_suite import ObjectsSuite

from wherry.registry.objects import Directory


@pytest.fixture
def objects(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path / "objects"), str(tmp_path / "staging"))


class TestDirectory(ObjectsSuite):
    pass


def test_half_written_files_go_at_the_next_start(objects: Directory, tmp_path: Path) -> None:
    (tmp_path / "staging" / "left").write_bytes(b"x")
    objects.sweep()
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_write_that_fails_leaves_nothing(objects: Directory, tmp_path: Path) -> None:
    objects.write("a/b", b"")
    with pytest.raises(OSError):
        objects.write("a/b/c", b"x")
    assert list((tmp_path / "staging").iterdir()) == []


def test_writers_and_deleters_of_one_directory_never_fail(objects: Directory) -> None:
    failures: list[OSError] = []

    def work(number: int) -> None:
        try:
            for _ in range(150):
                objects.write(f"a/b/c{number}", b"x")
                objects.delete(f"a/b/c{number}")
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert objects.children("a") == []
