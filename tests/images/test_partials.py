"""Unfinished downloads on a real file system."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from wherry.images.arrivals import Broken
from wherry.images.partials import KEPT_S, Partials
from wherry.spec.digest import sha256
from wherry.store.content import Content, ContentMismatch

DATA = bytes(range(256)) * 5000
DIGEST = sha256(DATA)


@pytest.fixture
def partials(tmp_path: Path) -> Partials:
    return Partials(str(tmp_path / "partial"), Content(str(tmp_path)))


def test_what_was_written_is_there_for_the_next_who_goes_on(partials: Partials) -> None:
    with partials.open(DIGEST, len(DATA)) as first:
        first.read_again()
        first.write(DATA[:1000])
    assert partials.sizes() == {DIGEST: 1000}
    assert not partials.content.has(DIGEST)
    with partials.open(DIGEST, len(DATA)) as second:
        second.read_again()
        assert second.size_bytes == 1000
        second.write(DATA[1000:])
        second.commit()
    assert partials.content.read(DIGEST) == DATA
    assert partials.sizes() == {}


def test_wrong_bytes_become_no_blob_and_are_not_kept(partials: Partials) -> None:
    with partials.open(DIGEST, len(DATA)) as partial:
        partial.write(b"x" * len(DATA))
        with pytest.raises(ContentMismatch, match=r"verification failed for digest sha256:"):
            partial.commit()
    assert partials.sizes() == {}
    assert not partials.content.has(DIGEST)


def test_what_is_removed_is_gone_also_after_it_was_closed(partials: Partials) -> None:
    for closed in (False, True):
        partial = partials.open(DIGEST, len(DATA))
        partial.write(DATA[:1000])
        if closed:
            partial.close()
        partial.remove()
        assert partials.sizes() == {}
        partial.close()


def test_who_still_reads_what_is_given_up_keeps_nobody_from_removing_it_or_going_on(partials: Partials) -> None:
    """As when the disk is full: the pull gives up before the thread that unpacks has noticed."""
    for wanted_again in (False, True):
        partial = partials.open(DIGEST, len(DATA))
        partial.write(DATA[:1000])
        reader = partial.reader_fd()
        partial.close()
        if wanted_again:
            partials.open(DIGEST, len(DATA)).close()
        partial.remove()
        assert partials.sizes() == {}
        assert os.pread(reader, 2000, 0) == DATA[:1000]
        os.close(reader)


def test_whoever_goes_on_with_what_was_closed_writes_into_no_other_file(partials: Partials, tmp_path: Path) -> None:
    partial = partials.open(DIGEST, len(DATA))
    partial.write(DATA[:1000])
    partial.close()
    with (tmp_path / "other").open("wb"):  # has the number that the partial file had
        for go_on in (lambda: partial.write(DATA[1000:]), partial.read_again, partial.reader_fd, partial.restart):
            with pytest.raises(Broken):
                go_on()
        partial.close()
        partial.discard()
    assert (tmp_path / "other").read_bytes() == b""
    assert partials.sizes() == {DIGEST: 1000}


def test_what_is_being_written_is_closed_afterwards(partials: Partials, tmp_path: Path) -> None:
    """As when the last one who wants a blob leaves while a thread writes what has come of it."""
    block = DATA[:200_000]
    with ThreadPoolExecutor(1) as thread:
        for number in range(200):
            partial = partials.open(sha256(b"%d" % number), len(block) * 2)
            started = Event()
            writing = thread.submit(lambda partial=partial, started=started: (started.set(), partial.write(block)))
            started.wait()
            partial.close()
            with (tmp_path / "other").open("wb"):
                assert writing.exception() is None or isinstance(writing.exception(), Broken)
            assert (tmp_path / "other").read_bytes() == b""


def test_what_goes_while_others_look_is_no_error_of_theirs(partials: Partials) -> None:
    ended = Event()

    def come_and_go() -> int:
        turns = 0
        while not ended.is_set():
            with suppress(BlockingIOError):  # it is just being swept
                partial = partials.open(DIGEST, len(DATA))
                partial.write(DATA[:1000])
                partial.remove()
                partial.close()
                turns += 1
        return turns

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(come_and_go)
        try:
            for _ in range(3000):
                assert set(partials.sizes()) <= {DIGEST}
                partials.sweep(served={DIGEST})
        finally:
            ended.set()
        assert coming.result(60) > 1


def test_one_blob_has_one_writer(partials: Partials) -> None:
    with partials.open(DIGEST, len(DATA)), pytest.raises(BlockingIOError):
        partials.open(DIGEST, len(DATA))
    partials.open(DIGEST, len(DATA)).close()


def test_a_partial_that_is_longer_than_the_blob_starts_over(partials: Partials) -> None:
    with partials.open(DIGEST, len(DATA)) as partial:
        partial.read_again()
        partial.write(DATA)
    with partials.open(DIGEST, 10) as shorter:
        shorter.read_again()
        assert shorter.size_bytes == 0


def test_a_sweep_takes_what_is_old_and_leaves_what_is_fresh_or_in_work(partials: Partials, tmp_path: Path) -> None:
    names = [sha256(text) for text in (b"old", b"fresh", b"in work")]
    for name in names:
        with partials.open(name, 100) as partial:
            partial.write(b"12345")
    for name in (names[0], names[2]):
        [path] = (tmp_path / "partial").glob(f"{name.hex}*")
        os.utime(path, (1, 1))
    with partials.open(names[2], 100):
        assert partials.sweep(KEPT_S) == 5
        assert set(partials.sizes()) == {names[1], names[2]}
