from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import forked
from tests.disks import in_memory

from wherry.store.records import NameTaken, Records


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(str(tmp_path / "state.db"))
    yield records
    records.close()


def test_bodies_are_kept_by_kind_and_ident(records: Records) -> None:
    records.put("image", "b", b"1")
    records.put("image", "a", b"2")
    records.put("container", "a", b"3")
    records.put("image", "b", b"4")
    assert records.get("image", "b") == b"4"
    assert records.get("image", "c") is None
    assert records.items("image") == [("a", b"2"), ("b", b"4")]
    records.delete("image", "a")
    records.delete("image", "a")
    assert records.items("image") == [("b", b"4")]
    assert records.items("container") == [("a", b"3")]


def test_a_name_belongs_to_one(records: Records) -> None:
    records.claim("container", "web", "1")
    records.claim("container", "web", "1")
    with pytest.raises(NameTaken, match="'web' is taken by 1") as taken:
        records.claim("container", "web", "2")
    assert (taken.value.name, taken.value.holder) == ("web", "1")
    assert records.name("container", "web", "2") == "1"
    assert records.name("container", "db", "3") is None
    assert records.resolve("container", "web") == "2"
    assert records.names("container") == [("db", "3"), ("web", "2")]
    records.release("container", "web")
    records.release("container", "web")
    assert records.resolve("container", "web") is None


def test_a_transaction_that_raises_does_nothing_and_an_inner_one_undoes_only_itself(records: Records) -> None:
    def failing(ident: str) -> None:
        with records.transaction():
            records.put("k", ident, b"")
            records.name("k", "n", ident)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing("a")
    assert records.items("k") == []
    with records.transaction():
        records.put("k", "a", b"")
        records.name("k", "n", "a")
        with pytest.raises(RuntimeError):
            failing("b")
        assert records.resolve("k", "n") == "a"
        with records.transaction():
            records.put("k", "c", b"")
    assert [ident for ident, _ in records.items("k")] == ["a", "c"]


def test_other_threads_wait_for_a_transaction(records: Records) -> None:
    seen: list[bytes | None] = []
    with records.transaction():
        records.put("k", "a", b"1")
        thread = threading.Thread(target=lambda: seen.append(records.get("k", "a")))
        thread.start()
        assert seen == []
        records.put("k", "a", b"2")
    thread.join(10)
    assert seen == [b"2"]


def test_what_was_committed_is_there_after_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom wherry.store.records import Records\nr = Records(sys.argv[1])\nr.put('k', 'a', b'1')\n"
        "r._connection.execute('BEGIN IMMEDIATE')\nr.put('k', 'b', b'2')\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    path = str(tmp_path / "state.db")
    with subprocess.Popen([sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    records = Records(path)
    assert records.items("k") == [("a", b"1")]
    records.close()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_records_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    records = Records(path)
    records._connection.execute("PRAGMA user_version = 99")
    records.close()
    with pytest.raises(ValueError, match="written by a newer version"):
        Records(path)


LETTERS = ["a", "b", "c"]
KEYS = st.sampled_from(LETTERS)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=3)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("name"), KEYS, KEYS),
    st.tuples(st.just("release"), KEYS),
)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.lists(STEPS, max_size=4), st.booleans()), max_size=5))
def test_records_behave_as_a_dictionary_with_roll_back(batches: list[tuple[list[tuple], bool]]) -> None:
    records = _unlinked()
    bodies: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for steps, fails in batches:
        new_bodies, new_names = dict(bodies), dict(names)
        try:
            with records.transaction():
                for step in steps:
                    match step:
                        case ("put", ident, body):
                            records.put("k", ident, body)
                            new_bodies[ident] = body
                        case ("delete", ident):
                            records.delete("k", ident)
                            new_bodies.pop(ident, None)
                        case ("name", name, ident):
                            assert records.name("k", name, ident) == new_names.get(name)
                            new_names[name] = ident
                        case ("release", name):
                            records.release("k", name)
                            new_names.pop(name, None)
                            assert records.resolve("k", name) is None
                if fails:
                    raise RuntimeError
            bodies, names = new_bodies, new_names
        except RuntimeError:
            pass
        assert dict(records.items("k")) == bodies
        assert dict(records.names("k")) == names
        assert [records.resolve("k", name) for name in LETTERS] == [names.get(name) for name in LETTERS]
    records.close()


def _unlinked() -> Records:
    directory = os.path.join("/dev/shm", f"records-{os.getpid()}-{threading.get_ident()}")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "state.db")
    records = Records(path)
    for name in os.listdir(directory):  # the open connection keeps its files
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)
    return records


@pytest.mark.root
def test_small_writes_succeed_on_a_full_disk_and_large_ones_name_the_file(abyss: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a small file system is mounted")
    with in_memory(abyss / "data", size_mib=4) as data, closing(Records(str(data / "state.db"))) as records:
        with (data / "rest").open("wb", buffering=0) as rest, suppress(OSError):
            while True:
                rest.write(bytes(4096))
        for number in range(2000):
            records.put("container", f"c{number % 20}", b"x" * 3000)
        with pytest.raises(OSError, match=r"No space left on device: .*state\.db") as caught:
            records.put("container", "big", bytes(5 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert records.get("container", "c0") == b"x" * 3000


def test_what_is_not_durable_outlives_its_process(tmp_path):
    path = str(tmp_path / "state.db")

    def write() -> None:
        records = Records(path)
        with records.transaction(durable=False):
            records.put("container", "a", b"1")

    assert forked.exit_code(write) == 0
    assert Records(path).get("container", "a") == b"1"


def test_a_write_after_one_that_was_not_durable_is_durable_again(tmp_path):
    records = Records(str(tmp_path / "state.db"))
    with records.transaction(durable=False):
        records.put("container", "a", b"1")
    records.put("container", "b", b"2")
    assert records._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
