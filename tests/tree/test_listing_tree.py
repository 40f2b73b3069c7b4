"""What a listing says of an archive is what unpacking it gives."""

from __future__ import annotations

import io
import os
import random
import stat
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from wherry.tree import parsing
from wherry.tree.apply import apply
from wherry.tree.listing import Listing, decode
from wherry.tree.tar import Entry, InvalidArchive, Kind
from wherry.tree.tar_reader import Reader

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from snapshotter_suite import directory, file, layer

Told = dict[str, tuple[object, ...]]


def listed(data: bytes) -> tuple[Listing, bytes]:
    """The listing, and the sparse files."""
    with tempfile.TemporaryFile() as tar, tempfile.TemporaryFile() as sparse, tempfile.TemporaryFile() as out:
        tar.write(data)
        tar.flush()
        answer = parsing.listing({}, [tar.fileno(), sparse.fileno(), out.fileno()])
        held = sparse.read()
        assert answer == {"sparse_bytes": len(held)}
        return decode(out.read(), [len(data), len(held)]), held


def told(data: bytes) -> Told:
    """By path: mode, time (not of directories: no entry may tell it), link, content, attributes, and the first name of the same inode."""
    listing, sparse = listed(data)
    paths: list[str] = []
    first: dict[int, str] = {}
    found: Told = {}
    folders: list[str] = []
    for row, (name, depth, inode) in enumerate(zip(listing.names, listing.depths, listing.inodes, strict=True)):
        del folders[depth:]
        path = "/".join([*folders, name])
        if listing.is_directory(row):
            folders.append(name)
        paths.append(path)
        device = (data, sparse)[listing.devices[inode]]
        content = device[listing.offsets[inode] : listing.offsets[inode] + listing.sizes[inode]]
        again = first.setdefault(inode, path)
        assert again == path or inode in listing.shared
        attributes = dict(listing.attributes.get(inode, ()))
        when = 0 if listing.is_directory(row) else listing.times_ns[inode]
        found[path] = (listing.modes[inode], when, listing.links.get(inode, ""), content, attributes, again)
    assert len(found) == len(paths)
    return found


def unpacked(data: bytes, root: Path) -> Told:
    root.mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply(Reader(io.BytesIO(data)), fd)
    finally:
        os.close(fd)
    found: Told = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        status, name = path.lstat(), str(path.relative_to(root))
        regular = stat.S_ISREG(status.st_mode)
        attributes = {key: os.getxattr(path, key).hex() for key in os.listxattr(path)} if regular else {}
        link = os.readlink(path) if path.is_symlink() else ""
        content = path.read_bytes() if regular else b""
        again = first.setdefault(status.st_ino, name) if regular or link else name
        when = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[name] = (status.st_mode, when, link, content, attributes, again)
    return found


def link(name: str, target: str, kind: Kind = Kind.SYMLINK) -> tuple[Entry, bytes]:
    return file(name, kind=kind, link=target)


def shuffled(seed: int) -> bytes:
    """Entries of few names, so that they stand in each other's way."""
    chance = random.Random(seed)
    entries = []
    for number in range(8):
        name = "/".join(chance.choices(("a", "b", "c", ".wh.a", "ä"), k=chance.randint(1, 3)))
        other = "/".join(chance.choices(("a", "b", "c"), k=chance.randint(1, 2)))
        made = (
            file(name, b"x" * number, mode=0o600 + number, xattrs={"user.n": b"%d" % number, "trusted.n": b"no"}),
            directory(name, mode=0o700 + number),
            link(name, chance.choice((other, "/" + other, "../" + other, "."))),
            link(name, other, Kind.HARDLINK),
        )
        entries.append(made[chance.choices(range(4), (8, 16, 4, 1))[0]])
    return layer(*entries)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners")
def test_it_tells_what_unpacking_gives_or_refuses_what_that_refuses(tmp_path: Path) -> None:
    outcomes = [0, 0]
    for seed in range(200):
        data = shuffled(seed)
        try:
            expected: Told | None = unpacked(data, tmp_path / str(seed))
        except (OSError, InvalidArchive):
            expected = None
        try:
            found: Told | None = told(data)
        except (OSError, InvalidArchive):
            found = None
        assert found == expected, seed
        outcomes[found is None] += 1
    assert min(outcomes) > 40


def test_sparse_files_lie_elsewhere(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "4096,3", "GNU.sparse.size": "8192"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("holes")
        info.pax_headers, info.size = sparse, 3
        tar.addfile(info, io.BytesIO(b"end"))
    assert told(out.getvalue())["holes"][3] == bytes(4096) + b"end" + bytes(4093)


def test_names_that_no_file_system_takes_are_refused() -> None:
    for entries in ((file("n" * 256),), (directory("ä" * 128),), (file("d/" * 2047 + "ab"),)):
        with pytest.raises(OSError, match="too long"):
            told(layer(*entries))
    deep = "d/" * 2000
    with pytest.raises(OSError, match="too long"):
        told(layer(file(deep + "f"), link("s", deep), file("s/" + deep + "f")))
    assert len(told(layer(file("d/" * 2046 + "abc")))) == 2047


def test_devices_and_pipes_are_told_as_what_they_are() -> None:
    found = told(layer(file("pipe", kind=Kind.FIFO, mode=0o640), file("null", kind=Kind.CHARACTER, device=(1, 3), mode=0o666)))
    assert {name: one[0] for name, one in found.items()} == {"pipe": stat.S_IFIFO | 0o640, "null": stat.S_IFCHR | 0o666}


def test_a_link_does_not_find_what_it_replaces() -> None:
    for entries in (
        (directory("d"), file("d/a"), link("d", "d/a", Kind.HARDLINK)),
        (directory("d"), file("d/a"), link("s", "d"), link("s/a", "d/a", Kind.HARDLINK)),
    ):
        with pytest.raises(InvalidArchive, match="hard link"):
            told(layer(*entries))
