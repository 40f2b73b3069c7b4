from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.tree.tar import BLOCK, Entry, InvalidArchive, Kind, Limits
from wherry.tree.tar_reader import Reader
from wherry.tree.tar_writer import Writer, header


def write(*entries: tuple[Entry, bytes]) -> bytes:
    out = io.BytesIO()
    writer = Writer(out)
    for entry, data in entries:
        writer.add(entry, data)
    writer.finish()
    return out.getvalue()


def read(archive: bytes, limits: Limits | None = None) -> list[tuple[Entry, bytes]]:
    reader = Reader(io.BytesIO(archive), limits)
    found = []
    for entry in reader:
        data = b""
        while chunk := bytes(reader.read(700)):
            data += chunk
        found.append((entry, data))
    return found


def pax(*records: tuple[str, bytes], flag: bytes = b"x") -> bytes:
    """A hand-made extended header."""
    body = b""
    for key, value in records:
        rest = f" {key}=".encode() + value + b"\n"
        length = len(rest) + len(str(len(rest) + len(str(len(rest)))))
        body += str(length).encode() + rest
    return special(flag, body)


def special(flag: bytes, body: bytes) -> bytes:
    block = bytearray(header(Entry(name="special", size=len(body))))
    block[156:157] = flag
    return checksummed(block) + body + bytes(-len(body) % BLOCK)


def checksummed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def gnu(*arguments: str, cwd: Path) -> bytes:
    return subprocess.run(["tar", "-c", *arguments], cwd=cwd, check=True, timeout=100, stdout=subprocess.PIPE).stdout


NAMES = st.lists(
    st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=8
).map("/".join)
ENTRIES = st.builds(
    Entry,
    name=NAMES,
    kind=st.sampled_from(Kind),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mtime_ns=st.integers(-(2**62), 2**62),
    link=st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=200),
    xattrs=st.dictionaries(st.sampled_from(["user.a", "security.capability"]), st.binary(max_size=20)),
)


@settings(max_examples=100)
@given(st.lists(st.tuples(ENTRIES, st.binary(max_size=1500)), max_size=4))
def test_what_is_written_reads_back_the_same_here_and_in_the_standard_library(entries: list[tuple[Entry, bytes]]) -> None:
    entries = [(entry, data if entry.kind is Kind.FILE else b"") for entry, data in entries]
    for entry, data in entries:
        entry.size = len(data)
        entry.device = (5, 300) if entry.kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0)
        entry.name = entry.name.rstrip("/")
    archive = write(*entries)
    found = read(archive)
    for entry, _ in found:
        entry.name = entry.name.removesuffix("/") if entry.kind is Kind.DIRECTORY else entry.name
    assert found == entries
    with tarfile.open(fileobj=io.BytesIO(archive)) as peer:
        members = peer.getmembers()
    assert [(member.name, member.uid, member.size, member.linkname) for member in members] == [
        (entry.name, entry.uid, entry.size, entry.link) for entry, _ in entries
    ]


def test_bytes_that_are_no_utf8_survive() -> None:
    name = b"caf\xe9/\xff".decode("utf-8", "surrogateescape")
    assert read(write((Entry(name=name, link=name, kind=Kind.SYMLINK), b"")))[0][0].name == name


def test_the_writer_is_plain_ustar_where_that_is_enough() -> None:
    archive = write((Entry(name="d" * 80 + "/" + "f" * 90, size=3, mtime_ns=10**9), b"abc"))
    assert len(archive) == 4 * BLOCK
    assert archive[257:265] == b"ustar\x0000"
    assert read(archive)[0][0].name == "d" * 80 + "/" + "f" * 90


def test_the_writer_refuses_data_that_is_not_the_size_said() -> None:
    writer = Writer(io.BytesIO())
    writer.add(Entry(name="a", size=3))
    with pytest.raises(ValueError, match="3 bytes of the last"):
        writer.add(Entry(name="b"))
    with pytest.raises(ValueError, match="3 bytes of the last"):
        writer.finish()
    with pytest.raises(ValueError, match="more data"):
        writer.write(b"abcd")


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_archives_of_gnu_tar_are_read(form: str, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir(mode=0o751)
    (tmp_path / "dir/file").write_bytes(b"content")
    (tmp_path / "dir/link").symlink_to("file")
    os.link(tmp_path / "dir/file", tmp_path / "dir/second")
    os.utime(tmp_path / "dir/file", ns=(1, 1_700_000_000_123_456_789))
    if form in ("gnu", "pax", "oldgnu"):
        (tmp_path / "dir" / ("long" * 50)).write_bytes(b"x" * 1000)
        (tmp_path / "dir" / "longlink").symlink_to("t" * 300)
    owner = ["--owner=:3000000", "--group=:7"] if form in ("gnu", "pax", "oldgnu") else []
    found = {
        entry.name.rstrip("/"): (entry, data) for entry, data in read(gnu(f"--format={form}", "--sort=name", *owner, "dir", cwd=tmp_path))
    }
    assert found["dir"][0].kind is Kind.DIRECTORY
    assert found["dir"][0].mode == 0o751
    assert found["dir/file"][1] == b"content"
    assert found["dir/file"][0].mtime_ns == (1_700_000_000_123_456_789 if form == "pax" else 1_700_000_000_000_000_000)
    assert (found["dir/link"][0].kind, found["dir/link"][0].link) == (Kind.SYMLINK, "file")
    assert (found["dir/second"][0].kind, found["dir/second"][0].link) == (Kind.HARDLINK, "dir/file")
    if owner:
        assert found["dir/file"][0].uid == 3_000_000
        assert found["dir/longlink"][0].link == "t" * 300
        assert found["dir/" + "long" * 50][1] == b"x" * 1000


@pytest.mark.parametrize(
    "form",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
)
def test_sparse_files_of_every_format_are_read(form: list[str], tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as sparse:
        for index in range(40):
            sparse.seek(index * 65536)
            sparse.write(b"%02d" % index * 100)
        sparse.truncate(40 * 65536 + 5)
    archive = gnu("-S", *form, "sparse", cwd=tmp_path)
    reader = Reader(io.BytesIO(archive))
    for entry in reader:
        assert entry.name == "sparse"
        assert entry.size == 40 * 65536 + 5
        fd = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
        reader.copy_to(fd)
        os.close(fd)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert (tmp_path / "copy").stat().st_blocks < 2000


def test_a_global_header_changes_nothing() -> None:
    archive = pax(("path", b"other"), ("uid", b"7"), flag=b"g") + write((Entry(name="a"), b""))
    assert [(entry.name, entry.uid) for entry, _ in read(archive)] == [("a", 0)]


def test_pax_values_override_the_header() -> None:
    archive = pax(("path", b"long/name"), ("size", b"3"), ("mtime", b"-1.5"), ("uid", b"70000"), ("gid", b"")) + write(
        (Entry(name="a", size=3, gid=5), b"abc")
    )
    entry, data = read(archive)[0]
    assert (entry.name, entry.mtime_ns, entry.uid, entry.gid, data) == ("long/name", -1_500_000_000, 70000, 5, b"abc")


def test_data_behind_a_directory_or_link_is_not_its_own() -> None:
    block = bytearray(header(Entry(name="dir", kind=Kind.DIRECTORY)))
    block[124:136] = b"%011o\0" % 3
    assert [entry.name for entry, _ in read(checksummed(block) + write((Entry(name="a"), b"")))] == ["dir/", "a"]


@pytest.mark.parametrize(("flag", "kind", "data"), [(b"0", Kind.FILE, b"abc"), (b"\0", Kind.DIRECTORY, b"")])
def test_a_slash_behind_a_name_makes_a_directory_in_archives_older_than_ustar_alone(flag: bytes, kind: Kind, data: bytes) -> None:
    block = bytearray(header(Entry(name="dir", size=len(data))))
    block[3:4], block[156:157] = b"/", flag
    archive = checksummed(block) + data + bytes(-len(data) % BLOCK) + write((Entry(name="a", size=1), b"a"))
    assert [(entry.name, entry.kind, found) for entry, found in read(archive)] == [("dir/", kind, data), ("a", Kind.FILE, b"a")]


def hostile(**fields: bytes) -> bytes:
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "flag": 156, "major": 329, "minor": 337, "extended": 482}
    block = bytearray(header(Entry(name="a")))
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    return checksummed(block)


SPARSE = ("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"s"), ("GNU.sparse.realsize", b"1000")
CASES: dict[str, bytes] = {
    "garbage": b"x" * 1024,
    "a short header": bytes(100) + b"x",
    "a wrong checksum": header(Entry(name="a"))[:-1] + b"x",
    "a lone zero block": bytes(512) + header(Entry(name="a")),
    "missing data": header(Entry(name="a", size=5000)) + b"x" * 600,
    "a negative size": hostile(size=b"\xff" * 12),
    "a huge size": hostile(size=b"\x80" + b"\xff" * 11),
    "a negative owner": hostile(uid=b"\xff" * 8),
    "owner minus one as unsigned": hostile(uid=b"\x80\0\0\0\xff\xff\xff\xff"),
    "a number with an underscore": hostile(size=b"0000_000001\0"),
    "a number with a sign": hostile(size=b"+0000000001\0"),
    "a digit that is not octal": hostile(size=b"00000000009\0"),
    "an unknown type": hostile(flag=b"Z"),
    "a multi-volume piece": hostile(flag=b"M"),
    "a huge device number": hostile(flag=b"3", major=b"7777777\0"),
    "a long name without end": special(b"L", b"n" * 5000) + write((Entry(name="a"), b"")),
    "an extended header of 2 MiB": special(b"x", b"x" * (2 << 20)) + write((Entry(name="a"), b"")),
    "an extended header alone": pax(("path", b"x")),
    "a long name alone": special(b"L", b"name\0"),
    "a PAX record of length 0": special(b"x", b"0 a=b\n") + write((Entry(name="a"), b"")),
    "a PAX record of wrong length": special(b"x", b"9 a=b\n") + write((Entry(name="a"), b"")),
    "a PAX record of length 10**30": special(b"x", b"1" + b"0" * 30 + b" a=b\n") + write((Entry(name="a"), b"")),
    "a PAX record without end": special(b"x", b"6 a=bc") + write((Entry(name="a"), b"")),
    "a PAX record with a null byte in its key": pax(("SCHILY.xattr.user.a\0b", b"1")) + write((Entry(name="a"), b"")),
    "a PAX record without equals sign": special(b"x", b"6 abc\n") + write((Entry(name="a"), b"")),
    "a negative PAX size": pax(("size", b"-1")) + write((Entry(name="a"), b"")),
    "a PAX size with spaces": pax(("size", b" 1")) + write((Entry(name="a"), b"")),
    "a PAX name with a null byte": pax(("path", b"a\0b")) + write((Entry(name="a"), b"")),
    "a PAX name of 5000 bytes": pax(("path", b"a" * 5000)) + write((Entry(name="a"), b"")),
    "a PAX time of 10**18 seconds": pax(("mtime", b"1" + b"0" * 18)) + write((Entry(name="a"), b"")),
    "a PAX time that is no number": pax(("mtime", b"1.x")) + write((Entry(name="a"), b"")),
    "a sparse map larger than its data": pax(*SPARSE) + write((Entry(name="a", size=512), b"5\n0\n1\n" + bytes(506))),
    "a sparse map of 10**9 segments": pax(*SPARSE) + write((Entry(name="a", size=512), b"1000000000\n" + bytes(501))),
    "a sparse map without end": pax(*SPARSE) + write((Entry(name="a", size=1024), b"1" * 1024)),
    "overlapping sparse segments": pax(*SPARSE) + write((Entry(name="a", size=532), b"2\n0\n10\n5\n10\n".ljust(512, b"\0") + bytes(20))),
    "a sparse segment beyond the end": pax(*SPARSE) + write((Entry(name="a", size=522), b"1\n995\n10\n".ljust(512, b"\0") + bytes(10))),
    "a sparse file of 2**60 bytes": pax(*SPARSE[:3], ("GNU.sparse.realsize", b"%d" % 2**60))
    + write((Entry(name="a", size=512), b"0\n".ljust(512, b"\0"))),
    "a sparse file without a size": pax(*SPARSE[:3]) + write((Entry(name="a"), b"")),
    "half a sparse segment": pax(("GNU.sparse.map", b"0,1,2"), ("GNU.sparse.size", b"10")) + write((Entry(name="a", size=1), b"x")),
    "old sparse extensions without end": hostile(flag=b"S", extended=b"\1"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_archive_is_refused_by_our_own_error(case: str) -> None:
    with pytest.raises(InvalidArchive):
        read(CASES[case])


def test_limits_hold() -> None:
    archive = write(*[(Entry(name=f"f{index}", size=600), b"x" * 600) for index in range(10)])
    with pytest.raises(InvalidArchive, match="more than 9 entries"):
        read(archive, Limits(entries=9))
    with pytest.raises(InvalidArchive, match="larger than 4000 bytes"):
        read(archive, Limits(total_bytes=4000))
    many = b"".join(b"%d,1," % (2 * index) for index in range(20_000))[:-1]
    with pytest.raises(InvalidArchive, match="too many segments"):
        read(pax(("GNU.sparse.map", many), ("GNU.sparse.size", b"99999")) + write((Entry(name="a", size=20_000), bytes(20_000))))


@pytest.mark.parametrize("cut", range(0, 2500, 97))
def test_an_archive_cut_anywhere_is_refused_or_ends_between_entries(cut: int) -> None:
    archive = write((Entry(name="a" * 200, size=700), b"x" * 700), (Entry(name="b"), b""))
    try:
        found = read(archive[:cut])
    except InvalidArchive:
        return
    assert all(len(data) == entry.size for entry, data in found)
    padding = range(archive.index(b"xx") + 700, archive.index(b"b", archive.index(b"xx")))
    assert cut % BLOCK == 0 or not found or cut in padding


@settings(max_examples=100)
@given(st.binary(max_size=300), st.integers(0, 2000))
def test_only_our_own_error_escapes(noise: bytes, place: int) -> None:
    archive: Any = bytearray(pax(*SPARSE) + write((Entry(name="n" * 200, size=700), b"x" * 700), (Entry(name="b", link="x"), b"")))
    archive[place : place + len(noise)] = noise
    if place + 512 <= len(archive):
        start = place // 512 * 512
        archive[start : start + 512] = checksummed(bytearray(archive[start : start + 512]))
    try:
        read(bytes(archive))
    except InvalidArchive:
        pass


def test_small_reads_and_large_chunks_of_the_source_give_the_same() -> None:
    archive = write(*[(Entry(name="n" * (index * 7 % 300 + 1), size=index * 100), bytes([index]) * (index * 100)) for index in range(30)])

    class Drip:
        def __init__(self) -> None:
            self.rest = io.BytesIO(archive)

        def read(self, size: int, /) -> bytes:
            return self.rest.read(min(size, 333))

    reader = Reader(Drip())
    assert [(entry.name, b"".join(iter(lambda: bytes(reader.read()), b""))) for entry in reader] == [(e.name, d) for e, d in read(archive)]


@pytest.mark.parametrize("missing", [2 * BLOCK, 2 * BLOCK + 1, 2 * BLOCK + 509])
def test_an_archive_may_end_with_the_data_of_its_last_file(missing: int) -> None:
    archive = write((Entry(name="f", size=3), b"abc"))
    assert [(entry.name, data) for entry, data in read(archive[: len(archive) - missing])] == [("f", b"abc")]


def test_an_archive_may_not_end_within_a_file() -> None:
    archive = write((Entry(name="f", size=3), b"abc"))
    with pytest.raises(InvalidArchive, match="unexpected EOF"):
        read(archive[: BLOCK + 2])
