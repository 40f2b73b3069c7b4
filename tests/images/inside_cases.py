"""Layers to look into: random ones, what unpacking them really gives, and the snapshotters that hold them."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wherry.images.catalog import Image
from wherry.spec.digest import Digest, chain_ids, sha256
from wherry.spec.image import History, ImageConfig, RootFS
from wherry.store.erofs import Erofs
from wherry.store.overlay import Overlay
from wherry.store.records import Records
from wherry.store.snapshot import Snapshotter
from wherry.store.vfs import Vfs
from wherry.tree.apply import ApplyOptions, Whiteouts, apply
from wherry.tree.tar_reader import Reader

NAMES = ["a", "b", "c-d", "c", "d.x", "\u00fc"]


class Layer:
    """A tar in the making."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, uid: int = 0) -> Layer:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode, info.uid, info.size = kind, link, mode, uid, len(data)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def directory(self, name: str, mode: int = 0o755) -> Layer:
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode)

    def done(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def random_layers(seed: int) -> list[bytes]:
    """A few layers that add, replace, link, delete and empty each other's paths; each names a path once, and parents first."""
    chance = random.Random(seed)
    return [_random_layer(chance, number) for number in range(4)]


def _random_layer(chance: random.Random, number: int) -> bytes:
    layer = Layer()
    kinds: dict[str, str] = {}
    for _ in range(chance.randint(5, 40)):
        path = "/".join(chance.choice(NAMES) for _ in range(chance.randint(1, 3)))
        parents = [path.rsplit("/", count)[0] for count in range(path.count("/"), 0, -1)]
        if path in kinds or any(kinds.get(parent, "directory") != "directory" for parent in parents):
            continue
        for parent in parents:
            if parent not in kinds:
                kinds[parent] = "directory"
                layer.directory(parent, chance.choice([0o755, 0o700]))
        files = [name for name, kind in kinds.items() if kind == "file"]
        kinds[path] = chance.choice(["file", "file", "file", "directory", "symlink", "link", "whiteout", "opaque"])
        _add_random(layer, path, kinds, files, chance, number)
    return layer.done()


def _add_random(layer: Layer, path: str, kinds: dict[str, str], files: list[str], chance: random.Random, number: int) -> None:
    match kinds[path]:
        case "file":
            layer.add(path, bytes([number + 1]) * chance.randint(0, 9000), mode=chance.choice([0o644, 0o4755]), uid=chance.choice([0, 7]))
        case "symlink":
            layer.add(path, kind=tarfile.SYMTYPE, link=chance.choice(NAMES))
        case "link" if files:
            layer.add(path, kind=tarfile.LNKTYPE, link=chance.choice(files))
        case "whiteout" if number:
            head, _, tail = path.rpartition("/")
            layer.add(f"{head}/.wh.{tail}" if head else f".wh.{tail}")
        case "opaque" if number:
            kinds[path] = "directory"
            layer.directory(path).add(f"{path}/.wh..wh..opq")
        case _:
            kinds[path] = "directory"
            layer.directory(path)


def unpacked(tars: list[bytes], directory: Path) -> list[dict[str, os.stat_result]]:
    """Every layer unpacked over the ones before: what is there after each, by path."""
    directory.mkdir()
    states = []
    for data in tars:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            apply(Reader(io.BytesIO(data)), fd, ApplyOptions(whiteouts=Whiteouts.DELETE))
        finally:
            os.close(fd)
        states.append(state(directory))
    return states


def state(directory: Path) -> dict[str, os.stat_result]:
    found = {}
    for folder, directories, names in os.walk(directory):
        for name in [*directories, *names]:
            path = os.path.join(folder, name)
            found["/" + os.path.relpath(path, directory)] = os.lstat(path)
    return found


def bytes_of(tree: dict[str, os.stat_result]) -> int:
    """Regular files, each once."""
    return sum({one.st_ino: one.st_size for one in tree.values() if stat.S_ISREG(one.st_mode)}.values())


@contextmanager
def shelf(kind: str, root: Path) -> Iterator[Snapshotter]:
    root.mkdir(exist_ok=True)
    records = Records(str(root / "state.db"))
    made: Snapshotter
    if kind == "erofs":
        made = Erofs(str(root), records, str(root / "mounts"))
    else:
        made = {"overlay": Overlay, "vfs": Vfs}[kind](str(root), records)
    try:
        yield made
    finally:
        made.close()
        records.close()


def stored(snapshotter: Snapshotter, tars: list[bytes]) -> Image:
    """An image of these layers, each a committed snapshot."""
    diff_ids = [sha256(data) for data in tars]
    chain = chain_ids(diff_ids)
    below: Digest | None = None
    for diff_id, chain_id, data in zip(diff_ids, chain, tars, strict=True):
        snapshotter.apply(chain_id, below, io.BytesIO(data), expected=diff_id)
        below = chain_id
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        rootfs=RootFS(diff_ids=diff_ids),
        history=[History(created_by=f"step {number}") for number in range(1, len(tars) + 1)],
    )
    return Image(
        id="sha256:" + "0" * 64,
        raw=b"",
        config=config,
        diff_ids=tuple(diff_ids),
        chain_ids=tuple(chain),
        layer_sizes=tuple(snapshotter.usage(chain_id) for chain_id in chain),
    )
