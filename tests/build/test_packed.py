"""A context in its tar is chosen from, hashed and copied as the same context unpacked would be."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry.build.context import NothingThere, Source
from wherry.build.packed import PackedContext
from wherry.spec.patterns import Patterns
from wherry.store.layer import NullSink
from wherry.tree.apply import apply
from wherry.tree.pack import pack
from wherry.tree.place import place
from wherry.tree.plan import Plan
from wherry.tree.tar import InvalidArchive
from wherry.tree.tar_reader import Reader

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners")
Made = Callable[..., tuple[PackedContext, Source]]


def archive() -> bytes:
    """Everything a context may hold, some of it twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "", **pax: str) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size, info.mtime = kind, mode, link, len(content), 1_600_000_000 + len(name)
            info.uid = info.gid = 7
            info.pax_headers = pax
            tar.addfile(info, io.BytesIO(content))

        add("./", kind=tarfile.DIRTYPE, mode=0o755)
        add("twice", b"first")
        add("d/", kind=tarfile.DIRTYPE, mode=0o750)
        add("d/x", b"content of x", mode=0o4755)
        add("d/empty")
        add("d/big", bytes(range(256)) * 4_200)
        add("d/e/implied/parent", b"p")
        add("d/named", kind=tarfile.LNKTYPE, link="d/x")
        add("d/link", kind=tarfile.SYMTYPE, link="../twice")
        add("into", kind=tarfile.SYMTYPE, link="d/e")
        add("into/through", b"a file behind a link")
        add("up", kind=tarfile.SYMTYPE, link="/../d")
        add("pipe", kind=tarfile.FIFOTYPE)
        add("marked", b"m", **{"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.no": "dropped"})
        add(".wh.twice", b"a name like any other")
        add("twice", b"second, and longer", mode=0o600)
    return out.getvalue()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """The same archive packed and unpacked."""
    opened: list[Source] = []

    def make(content: bytes | None = None) -> tuple[PackedContext, Source]:
        data = archive() if content is None else content
        directory = tmp_path / f"unpacked-{len(opened)}"
        directory.mkdir()
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        apply(Reader(io.BytesIO(data)), fd)
        os.close(fd)
        packed, unpacked = PackedContext(io.BytesIO(data), str(tmp_path)), Source.open(str(directory))
        opened.extend((packed, unpacked))
        return packed, unpacked

    yield make
    for one in opened:
        one.close()


PATTERNS = (".", "d", "twice", "*", "d/*", "into", "into/through", "up/x", "*/*/*", "d/named", "marked", "../../d/e", "nothing*")


@pytest.mark.parametrize("ignored", [(), ("d/e", "t*"), ("d", "!d/e/implied"), ("*", "!d/x")])
def test_it_chooses_and_hashes_as_from_a_directory(made: Made, ignored: tuple[str, ...]) -> None:
    packed, unpacked = made()
    packed.ignored = unpacked.ignored = Patterns(ignored)
    compared = 0
    for pattern in PATTERNS:
        for excludes in ((), ("x", "e/*")):
            results = []
            for source in (packed, unpacked):
                try:
                    results.append(source.choose(pattern, excludes))
                except NothingThere as error:
                    results.append([str(error)])  # type: ignore[list-item]
            assert results[0] == results[1]
            compared += len(results[0])
    assert compared > len(ignored) + 3


@pytest.mark.parametrize("options", [{}, {"owner": "5:6"}, {"mode": "0640"}, {"mode": "go+rX"}])
def test_it_is_placed_as_from_a_directory(made: Made, tmp_path: Path, options: dict[str, str]) -> None:
    packed, unpacked = made()
    digests = []
    for number, source in enumerate((packed, unpacked)):
        target = tmp_path / f"target-{number}"
        target.mkdir()
        os.utime(target, (1, 1))
        items = tuple(source.item(one, 0, one.name) for pattern in (".", "twice") for one in source.choose(pattern))
        plan = Plan.from_json(Plan(destination="/into", items=items, directory=True, **options).to_json())
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        place(fd, plan, source.descriptors())
        os.utime(target, (1, 1))
        os.utime(target / "into", (1, 1))
        digests.append(pack(fd, NullSink()))
        os.close(fd)
    assert digests[0] == digests[1]
    placed = tmp_path / "target-0/into"
    assert (placed / "twice").read_bytes() == b"second, and longer"
    assert os.stat(placed / "d/named").st_ino == os.stat(placed / "d/x").st_ino


def test_a_directory_is_made_for_those_who_need_one_and_named_for_removal(made: Made) -> None:
    packed, _ = made()
    assert packed.left == ""
    path = Path(packed.unpacked())
    assert packed.unpacked() == str(path) == packed.left
    assert (path / "d/e/through").read_bytes() == b"a file behind a link"


def test_files_are_read_and_opened_through_links(made: Made, tmp_path: Path) -> None:
    packed, _ = made()
    assert packed.read("d/link", 100) == b"second, and longer"
    fd = packed.open_file("up/x", str(tmp_path))
    assert os.read(fd, 100) == b"content of x"
    os.close(fd)
    for path, error in (("nothing", FileNotFoundError), ("twice/below", FileNotFoundError), ("d", OSError)):
        with pytest.raises(error):
            packed.read(path, 100)
    with pytest.raises(OSError, match="larger than 3 bytes"):
        packed.read("twice", 3)


def test_sparse_files_have_their_holes(made: Made) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("holes")
        info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "4096,3", "GNU.sparse.size": "8192"}
        info.size = 3
        tar.addfile(info, io.BytesIO(b"end"))
    packed, unpacked = made(data.getvalue())
    assert packed.choose("holes") == unpacked.choose("holes")
    assert packed.read("holes", 1 << 20) == bytes(4096) + b"end" + bytes(4093)


def test_what_is_no_archive_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for data in (b"no tar" * 200, archive()[:100_000]):
        with pytest.raises(InvalidArchive):
            PackedContext(io.BytesIO(data), str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []


def test_links_in_a_circle_are_refused_as_the_kernel_does(made: Made) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("circle")
        info.type, info.linkname = tarfile.SYMTYPE, "circle"
        tar.addfile(info)
    for source in made(data.getvalue()):
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            source.choose("circle/x")


def test_a_context_may_be_deeper_than_python_can_call(abyss: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("d/" * 1900 + "deep"))
    data.seek(0)
    with PackedContext(data, str(abyss)) as packed:
        (chosen,) = packed.choose(".")
        assert len(chosen.entries) == 1901
        assert len(packed.item(chosen, 0, "").packed) == 1901


def test_an_empty_context_is_one(made: Made) -> None:
    packed, unpacked = made(bytes(1024))
    assert packed.choose(".") == unpacked.choose(".")
