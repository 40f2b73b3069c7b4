"""A listing comes back as it was, and is not believed where it can't be true."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest

from wherry.tree.listing import Listing, decode
from wherry.tree.tar import InvalidArchive

FILE, DIRECTORY, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


def listing() -> Listing:
    """a/, a/b/, a/b/deep, a/z, again (a name of a/z), l\udcff -> target, z/"""
    made = Listing()
    for mode, size, offset in ((DIRECTORY, 0, 0), (DIRECTORY, 0, 0), (FILE, 100, 512), (FILE, 7, 1024), (LINK, 0, 0), (DIRECTORY, 0, 0)):
        made.modes.append(mode)
        made.sizes.append(size)
        made.times_ns.append(-5)
        made.devices.append(0)
        made.offsets.append(offset)
    rows = (("a", 0, 0), ("b", 1, 1), ("deep", 2, 2), ("z", 1, 3), ("again", 0, 3), ("l\udcff", 0, 4), ("z", 0, 5))
    for name, depth, inode in rows:
        made.names.append(name)
        made.depths.append(depth)
        made.inodes.append(inode)
    made.shared.add(3)
    made.links[4] = "target"
    made.attributes[2] = (("user.a", "00ff"), ("user.b", ""))
    return made


def test_it_comes_back_as_it_was_with_the_ends_of_directories() -> None:
    found = decode(listing().encode(), [2000])
    expected = listing()
    for name in ("names", "depths", "inodes", "modes", "sizes", "times_ns", "devices", "offsets", "shared", "links", "attributes"):
        assert getattr(found, name) == getattr(expected, name)
    assert list(found.ends) == [4, 3, 3, 4, 5, 6, 7]
    assert list(found.inside(-1)) == [0, 4, 5, 6]
    assert list(found.inside(0)) == [1, 3]
    assert list(found.inside(6)) == []
    assert [found.is_directory(row) for row in (-1, 0, 2, 5, 6)] == [True, True, False, False, True]


def test_one_of_nothing_is_one() -> None:
    assert decode(Listing().encode(), []).names == []


LIES: dict[str, Callable[[Listing], None]] = {
    "outside": lambda made: made.offsets.__setitem__(2, 1901),
    "no device": lambda made: made.devices.__setitem__(3, 1),
    "no inode": lambda made: made.inodes.__setitem__(0, 6),
    "no shared inode": lambda made: made.shared.add(6),
    "no linked inode": lambda made: made.links.__setitem__(6, "x"),
    "no inode with attributes": lambda made: made.attributes.__setitem__(6, (("user.x", ""),)),
    "a mark of overlayfs": lambda made: made.attributes.__setitem__(2, (("trusted.overlay.opaque", "79"),)),
    "no hexadecimal": lambda made: made.attributes.__setitem__(2, (("user.a", "0g"),)),
    "short column": lambda made: made.modes.append(FILE),
    "fewer inodes than names": lambda made: made.names.append("zz"),
    "dots": lambda made: made.names.__setitem__(0, ".."),
    "dot": lambda made: made.names.__setitem__(6, "."),
    "no name": lambda made: made.names.__setitem__(1, ""),
    "a path": lambda made: made.names.__setitem__(2, "../../x"),
    "two names": lambda made: made.names.__setitem__(2, "de\0ep"),
    "no order": lambda made: made.names.__setitem__(4, "Z"),
    "one name twice": lambda made: made.names.__setitem__(6, "l\udcff"),
    "below the root": lambda made: made.depths.__setitem__(0, 1),
    "below a file": lambda made: made.depths.__setitem__(4, 2),
    "deeper than its directory": lambda made: made.depths.__setitem__(2, 3),
    "a long path": lambda made: made.names.__setitem__(2, "n" * 4092),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str) -> None:
    made = listing()
    LIES[lie](made)
    with pytest.raises(InvalidArchive, match="not a listing"):
        decode(made.encode(), [2000])


def test_what_is_cut_off_anywhere_is_refused() -> None:
    data = listing().encode()
    for size in range(len(data)):
        with pytest.raises(InvalidArchive):
            decode(data[:size], [2000])


def test_paths_that_are_short_in_the_archive_and_long_together_are_refused() -> None:
    made = Listing()
    for name, mode in (("n" * 4000, DIRECTORY), ("f", FILE)):
        made.names.append(name)
        made.modes.append(mode)
        made.sizes.append(0)
        made.times_ns.append(0)
        made.devices.append(0)
        made.offsets.append(0)
    made.names = [made.names[0], *(f"{number:07}" for number in range(300_000))]
    made.depths.extend([0, *[1] * 300_000])
    made.inodes.extend([0, *[1] * 300_000])
    with pytest.raises(InvalidArchive, match="paths that are too long"):
        decode(made.encode(), [0])
