"""``--mount type=image``: what shows of it in a container, what of it on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon
from tests.system.test_images import build

from wherry.kernel import mount


@pytest.fixture
def shelf(engine: Daemon, tmp_path: Path) -> Iterator[str]:
    """An image of several layers to mount."""
    steps = (
        "RUN mkdir /data && echo 1 > /data/a && echo 2 > /data/b && ln -s / /out && ln -s /data /in\nRUN rm /data/a && echo 3 > /data/c\n"
    )
    build(engine, tmp_path / "shelf", f"FROM bb\n{steps}", "-t", "shelf")
    yield "shelf"
    engine.run("rmi", "-f", "shelf")


def mounted(engine: Daemon, option: str, *command: str, check: bool = True) -> str:
    done = engine.run("run", "--rm", "--mount", f"type=image,src=shelf,dst=/m{option}", "bb", *command, check=check)
    return done.out + done.err.replace("WARNING: Image mount is an experimental feature\n", "")


def on_the_host(engine: Daemon) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        mounts = [line for line in file if f"{engine.root}/run/image-mounts" in line]
    folder = engine.root / "run" / "image-mounts"
    return mounts + (os.listdir(folder) if folder.exists() else [])


def test_an_image_shows_whole_or_in_part_and_read_only(engine: Daemon, shelf: str) -> None:
    assert mounted(engine, "", "ls", "/m/data").split() == ["b", "c"]
    assert mounted(engine, ",image-subpath=data", "ls", "/m").split() == ["b", "c"]
    assert mounted(engine, ",image-subpath=data/c", "cat", "/m") == "3\n"
    assert "Read-only file system" in mounted(engine, "", "touch", "/m/x", check=False)
    assert on_the_host(engine) == []


def test_a_subpath_never_leaves_the_image(engine: Daemon, shelf: str) -> None:
    assert mounted(engine, ",image-subpath=in", "ls", "/m").split() == ["b", "c"]
    assert mounted(engine, ",image-subpath=out/etc/passwd", "cat", "/m") == engine.run("run", "--rm", "bb", "cat", "/etc/passwd").out
    for subpath, message in (("nosuch", "no such file or directory"), ("../..", "subpath must be a relative path within the volume")):
        assert message in mounted(engine, f",image-subpath={subpath}", "true", check=False)
    assert on_the_host(engine) == []


def test_an_image_that_is_mounted_is_in_use(engine: Daemon, shelf: str) -> None:
    engine.run("create", "--name", "reader", "--mount", "type=image,src=shelf,dst=/m", "bb", "cat", "/m/data/b")
    refused = engine.run("rmi", "shelf", check=False)
    assert "must force" in refused.err
    assert "is using its referenced image" in refused.err
    for _ in range(2):
        assert engine.out("start", "-a", "reader") == "2"
    engine.run("rmi", "-f", "shelf")
    assert "No such image" in engine.run("start", "reader", check=False).err
    engine.run("rm", "reader")
    missing = engine.run("create", "--mount", "type=image,src=gone,dst=/m", "bb", "true", check=False)
    assert 'invalid mount config for type "image": No such image: gone:latest' in missing.err


def test_what_a_killed_daemon_left_mounted_goes_at_the_next_start(own_engine: Daemon) -> None:
    engine = own_engine
    place = engine.root / "run" / "image-mounts" / "left-0"
    place.mkdir(parents=True)
    engine.kill()
    tree = mount.open_tree(mount.AT_FDCWD, str(engine.root / "config"))
    fd = os.open(place, os.O_PATH)
    mount.move_mount(tree, fd)
    os.close(fd)
    os.close(tree)
    assert on_the_host(engine) != []
    engine.start()
    assert on_the_host(engine) == []
