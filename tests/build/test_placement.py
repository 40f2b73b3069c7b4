"""A COPY computed as a tar is the tar that carrying it out in an overlay and packing that would give."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

from wherry.build.packed import PackedContext
from wherry.build.placement import Placement, Unfit
from wherry.kernel import mount
from wherry.spec.digest import sha256
from wherry.store.parsing import compose
from wherry.tree.erofs_image import decode
from wherry.tree.erofs_node import Node
from wherry.tree.pack import PackOptions, pack
from wherry.tree.place import place
from wherry.tree.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "tree"))

from indexes import index_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for an overlay")
Told = dict[str, tuple[object, ...]]


def context() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "", **pax: str) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size, info.mtime = kind, mode, link, len(content), 1_600_000_000 + len(name)
            info.pax_headers = pax
            tar.addfile(info, io.BytesIO(content))

        for folder in ("s", "s/old", "s/old/new", "s/new", "t"):
            add(folder, kind=tarfile.DIRTYPE, mode=0o751)
        add("s/file", b"f" * 2000)
        add("s/empty")
        add("s/set", b"#!", mode=0o6755)
        add("s/old/kept", b"from the context")
        add("s/old/new/deep", b"deep")
        add("s/new/big", bytes(range(256)) * 6_000)
        add("s/a-link", kind=tarfile.SYMTYPE, link="../nowhere")
        add("s/z-named", kind=tarfile.LNKTYPE, link="s/new/big")
        add("s/pipe", kind=tarfile.FIFOTYPE)
        add("s/marked", b"m", **{"SCHILY.xattr.user.note": "kept"})
        add("s/" + "long" * 40 + "ä", b"long")
        add("t/file", b"another")
        add("wh/.wh.x", b"no whiteout")
        add("single", b"1")
    return out.getvalue()


def below(root: Path) -> Path:
    """The image that is copied into."""
    for folder in ("etc", "app/old", "app/other", "srv/held"):
        (root / folder).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nbob:x:1000:1001::/:/bin/sh\n")
    (root / "etc/group").write_text("bobs:x:7:\n")
    (root / "app/old").chmod(0o700)
    os.chown(root / "app", 3, 4)
    os.setxattr(root / "app/old", "user.below", b"stays")
    (root / "app/file").write_text("replaced")
    (root / "app/a-link").symlink_to("file")
    (root / "app/old/kept").write_text("replaced too")
    (root / "link").symlink_to("app")
    (root / "srv/file").mkdir()
    for path in ("app/old", "app", "etc", "srv/held", "srv", "."):
        os.utime(root / path, (1_500_000_000, 1_500_000_000))
    return root


def told(data: bytes) -> Told:
    """Everything in a tar, but the second in which something was made now."""
    found: Told = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            made = "now" if abs(member.mtime - time.time()) < 60 else member.mtime
            pax = tuple(sorted((key, value) for key, value in member.pax_headers.items() if key != "mtime"))
            about = (member.mode, member.uid, member.gid, member.size, made, member.linkname, pax)
            found[member.name] = (member.type, *about, content.read() if content else b"")
    return found


def written(placement: Placement, tmp_path: Path) -> tuple[bytes, bytes]:
    """The tar, and its index."""
    paths = [tmp_path / name for name in ("made.tar", "made.sparse", "made.index")]
    diff_id, found = compose(placement, *map(str, paths))
    tar = paths[0].read_bytes()
    assert (diff_id, found.tar_bytes) == (sha256(tar), len(tar))
    return tar, paths[2].read_bytes()


def copied(tmp_path: Path, patterns: list[str], destination: str, **options: str | bool) -> tuple[Told, Told, list[str], list[str]]:
    """Both ways: what the tars tell, and the order of their names."""
    image = below(tmp_path / "image")
    source = PackedContext(io.BytesIO(context()), str(tmp_path))
    items = tuple(source.item(one, 0, one.name) for pattern in patterns for one in source.choose(pattern))
    plan = Plan(destination=destination, items=items, **options)  # type: ignore[arg-type]
    root_fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY)
    try:
        computed, _ = written(Placement(root_fd, plan, source.descriptors()), tmp_path)
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        os.utime(tmp_path / "upper", (1_500_000_000, 1_500_000_000))
        overlay = mount.overlay([str(image)], str(tmp_path / "upper"), str(tmp_path / "work"))
        place(overlay, plan, source.descriptors())
        os.close(overlay)
        upper = os.open(tmp_path / "upper", os.O_RDONLY | os.O_DIRECTORY)
        packed = io.BytesIO()
        pack(upper, packed, PackOptions(overlay=True, hides=lambda *_: False))
        os.close(upper)
    finally:
        os.close(root_fd)
        source.close()
    plain, packed_plain = told(computed), told(packed.getvalue())
    return plain, packed_plain, list(plain), list(packed_plain)


@pytest.mark.parametrize(
    ("patterns", "destination", "options"),
    [
        (["s"], "/app", {}),
        (["s"], "/new/deep/er", {}),
        (["s"], "/", {}),
        (["s"], "/app/old", {"owner": "bob:bobs"}),
        (["s"], "/srv/held", {"mode": "u=rwX,go="}),
        (["s", "single"], "/app", {"directory": True, "owner": "12"}),
        (["single", "s"], "/made", {"directory": True}),
    ],
)
def test_it_is_what_carrying_it_out_gives(tmp_path: Path, patterns: list[str], destination: str, options: dict[str, str | bool]) -> None:
    computed, packed, names, packed_names = copied(tmp_path, patterns, destination, **options)
    assert computed == packed
    assert names == packed_names
    assert len(names) > 12


def test_it_knows_where_everything_is_in_its_tar(tmp_path: Path) -> None:
    image = below(tmp_path / "image")
    with PackedContext(io.BytesIO(context()), str(tmp_path)) as source:
        root_fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY)
        plan = Plan(destination="/app", items=(source.item(source.choose("s")[0], 0, ""),))
        data, index = written(Placement(root_fd, plan, source.descriptors()), tmp_path)
        os.close(root_fd)
    status = image.stat()
    read = index_of(data, root=[status.st_mode & 0o7777, 0, 0, int(status.st_mtime) * 10**9])
    assert shown(decode(index)) == shown(decode(read))


def test_many_small_files_and_large_ones_are_whole(tmp_path: Path) -> None:
    made = io.BytesIO()
    contents = {f"f{number:04}": bytes([number % 256]) * (number * 7 % 1500) for number in range(1200)}
    contents |= {f"e{number:04}": b"" for number in range(1500)}
    contents |= {"g1": os.urandom(3 << 20), "g2": os.urandom((2 << 20) - 1), "h": b"last"}
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    made.seek(0)
    (tmp_path / "image").mkdir()
    with PackedContext(made, str(tmp_path)) as source:
        root_fd = os.open(tmp_path / "image", os.O_RDONLY | os.O_DIRECTORY)
        plan = Plan(destination="/", items=(source.item(source.choose(".")[0], 0, ""),))
        data, index = written(Placement(root_fd, plan, source.descriptors()), tmp_path)
        os.close(root_fd)
    assert {name: one[-1] for name, one in told(data).items()} == contents
    children = decode(index).children or {}
    assert {name: data[node.offset : node.offset + node.size] for name, node in children.items()} == contents


def shown(node: Node) -> object:
    children = {name: shown(child) for name, child in (node.children or {}).items()}
    facts = node.mode, node.uid, node.gid, node.mtime_ns, node.size, node.device, node.offset, node.rdev, node.link, node.links, node.xattrs
    return facts, children


@pytest.mark.parametrize(
    ("patterns", "destination", "options"),
    [
        (["s"], "/link", {}),  # a symlink on the way
        (["s"], "/app/file", {}),  # a directory onto a file
        (["s"], "/srv", {}),  # a file onto a directory
        (["s", "t"], "/app", {}),  # two files of one name
        (["wh"], "/app", {}),  # a name that means something in layers
        (["single"], "/app/name", {}),  # one file, renamed
        (["s"], "/app", {"replace_links": True}),
        (["s"], "/app", {"keep_owner": True}),
    ],
)
def test_what_is_not_plain_is_left_to_others(tmp_path: Path, patterns: list[str], destination: str, options: dict[str, str | bool]) -> None:
    with pytest.raises(Unfit):
        copied(tmp_path, patterns, destination, **options)


def test_an_unknown_owner_is_told(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no such user: eve"):
        copied(tmp_path, ["s"], "/app", owner="eve")


def test_directories_that_give_their_group_are_left_to_others(tmp_path: Path) -> None:
    image = below(tmp_path / "image")
    (image / "app").chmod(0o2755)
    source = PackedContext(io.BytesIO(context()), str(tmp_path))
    (chosen,) = source.choose("s")
    root_fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(Unfit):
        Placement(root_fd, Plan(destination="/app", items=(source.item(chosen, 0, ""),)), source.descriptors())
    os.close(root_fd)
    source.close()
