from __future__ import annotations

import stat

import pytest

from wherry.tree.erofs_format import Damaged, Device, TooLarge
from wherry.tree.erofs_image import decode, decode_root, encode
from wherry.tree.erofs_node import Node, new_directory


def tree() -> Node:
    root = new_directory(0o751, 7, 8, 9_000_000_001)
    inner = new_directory(0o700, mtime_ns=-1)
    inner.xattrs = {"trusted.overlay.opaque": b"y", "user.a": b"1" * 700}
    body = Node(stat.S_IFREG | 0o4755, 70000, 4_000_000_000, 5)
    body.size, body.device, body.offset = 5000, 1, 1024
    link = Node(stat.S_IFLNK | 0o777)
    link.link = "x" * 3000
    device = Node(stat.S_IFBLK | 0o600)
    device.rdev = (259 << 8) | (70000 & 0xFF) | ((70000 & ~0xFF) << 12)
    assert root.children is not None
    assert inner.children is not None
    root.children |= {"inner": inner, "link": link, "device": device, "name": body}
    inner.children |= {"hard": body} | {f"{number:04}{'n' * (number % 250)}": Node(stat.S_IFIFO | 0o640) for number in range(500)}
    return root


def shown(node: Node) -> object:
    children = {name: shown(child) for name, child in (node.children or {}).items()}
    return node.mode, node.uid, node.gid, node.mtime_ns, node.device, node.offset, node.rdev, node.link, node.xattrs, children


DEVICES = [Device(1 << 20, "tar"), Device(1 << 20, "sparse")]


def test_an_image_is_read_back_and_written_the_same() -> None:
    image = encode(tree(), DEVICES)
    again = decode(image)
    assert shown(again) == shown(tree())
    assert again.children is not None
    assert again.children["inner"].children is not None
    assert again.children["name"] is again.children["inner"].children["hard"]
    assert encode(again, DEVICES) == image


def test_the_root_is_read_from_the_head_alone() -> None:
    root = decode_root(encode(tree(), DEVICES)[: 1 << 16])
    assert (stat.S_IMODE(root.mode), root.uid, root.gid, root.mtime_ns) == (0o751, 7, 8, 9_000_000_001)


def test_more_blocks_than_32_bits_number_are_refused() -> None:
    with pytest.raises(TooLarge):
        encode(new_directory(), [Device(1 << 40, "a"), Device(1 << 40, "b")])


@pytest.mark.parametrize("image", [b"", bytes(4096), encode(tree(), DEVICES)[:1500]])
def test_what_is_no_image_is_refused(image: bytes) -> None:
    with pytest.raises(Damaged):
        decode(image)
