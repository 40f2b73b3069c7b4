"""What is made before it is known for which container: taken or not, a container is the same."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.harness import Bench, config, first_process, is_ready, kill, run, zygote
from tests.system.waiting import until

from wherry.kernel import cgroup, mount
from wherry.runtime import defaults
from wherry.spec.mounts import Rootfs

pytestmark = pytest.mark.root


async def mounts(b: Bench, wanted: dict[str, Any], *, ahead: bool) -> list[tuple[str, ...]]:
    """Everything about each mount of a container but its numbers, in the order of their places."""
    until(lambda: is_ready(b))
    if not ahead:
        kill(first_process(b, "wherry-spare"))
    result = await b.run(copy.deepcopy(wanted))
    assert result.record.code == 0, result
    found = []
    for line in result.stdout.decode().splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, root, place, options, *shared = left.split()
        kind, source, settings = right.split(" ", 2)
        found.append((place, root.replace(b.made[-1], "ID"), options, kind, source, "" if kind == "overlay" else settings, *shared))
    return sorted(found)


def test_mounts_are_the_same_with_and_without_what_was_made_ahead(image: Path, tmp_path: Path) -> None:
    """Ordinary ones, and those that differ in one of the places: shared memory, settings, a mount below, no masks; or need the host."""
    usual = config("cat", "/proc/self/mountinfo")
    shm, sysctl, below, bare, read_only, propagating, layered = (copy.deepcopy(usual) for _ in range(7))
    shm["mounts"] = defaults.mounts(shm_bytes=1 << 20)
    sysctl["linux"]["sysctl"] = {"net.ipv4.ip_forward": "0"}
    below["mounts"].append({"destination": "/dev/below", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]})
    bare["linux"]["maskedPaths"] = bare["linux"]["readonlyPaths"] = None
    read_only["root"]["readonly"] = True
    propagating["linux"]["rootfsPropagation"] = "rslave"
    lower = [tmp_path / "one", tmp_path / "two"]
    for one in lower:
        one.mkdir()
    options = [f"lowerdir={lower[0]}:{lower[1]}"]
    layered["mounts"].append({"destination": "/layered", "type": "overlay", "source": "overlay", "options": options})

    async def check(b: Bench) -> None:
        for wanted in (usual, shm, sysctl, below, bare, read_only, propagating, layered):
            with_it, without = await mounts(b, wanted, ahead=True), await mounts(b, wanted, ahead=False)
            assert with_it == without
            assert len({one[0] for one in with_it}) == len(with_it) > 7

    run(check, image, tmp_path)


def test_a_container_sees_the_host_as_it_is_at_its_start(image: Path, tmp_path: Path) -> None:
    """The host's mounts that came, and those that went, while its first process waited."""
    came, went = tmp_path / "came", tmp_path / "went"
    for place in (came, went):
        place.mkdir()
    mount.mount("tmpfs", str(went), "tmpfs")
    (went / "gone").touch()

    async def check(b: Bench) -> None:
        until(lambda: is_ready(b))
        mount.mount("tmpfs", str(came), "tmpfs")
        try:
            (came / "here").touch()
            mount.umount2(str(went))
            wanted = config("ls", "/volume/came", "/volume/went")
            wanted["mounts"].append({"destination": "/volume", "type": "bind", "source": str(tmp_path), "options": ["rbind"]})
            assert (await b.run(wanted)).stdout.decode().split() == ["/volume/came:", "here", "/volume/went:"]
        finally:
            mount.umount2(str(came))

    run(check, image, tmp_path)


def test_the_root_file_system_goes_with_the_container(image: Path, tmp_path: Path) -> None:
    """It is kept until the end is told, and no longer: an overlay with an index refuses directories that another one works with."""

    async def check(b: Bench) -> None:
        launch = b.launch(config("true"), rootfs=Rootfs(lower=(str(image),), upper=str(tmp_path / "upper"), work=str(tmp_path / "work")))
        for place in ("upper", "work"):
            (tmp_path / place).mkdir()
        process = await b.supervisor.run(launch)
        await process.wait()
        await process.acknowledge()
        until(lambda: is_free(image, tmp_path))

    run(check, image, tmp_path)


def is_free(image: Path, place: Path) -> bool:
    try:
        os.close(mount.overlay([str(image)], str(place / "upper"), str(place / "work"), options=[("index", "on")]))
    except OSError:
        return False
    return True


def test_a_waiting_process_belongs_to_no_group_that_stays(image: Path, tmp_path: Path) -> None:
    """Of a container that cannot have the group made ahead, since its own exists already, only its own is left to remove."""

    async def check(b: Bench) -> None:
        until(lambda: is_ready(b))
        wanted = config("cat", "/proc/self/cgroup")
        launch = b.launch(wanted)
        cgroup.create(cgroup.find(), wanted["linux"]["cgroupsPath"])
        process = await b.supervisor.run(launch)
        assert (await process.wait()).code == 0
        await process.acknowledge()
        until(lambda: is_ready(b))
        prefix = f"{defaults.SPARE_GROUP}-{zygote(b)}-"
        assert len([one for one in cgroup.children(cgroup.find(), "/wherry-test") if one.startswith(prefix)]) <= 1

    run(check, image, tmp_path)
