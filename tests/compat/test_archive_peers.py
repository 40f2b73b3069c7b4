"""Archives of the real Docker, Podman and skopeo load here; ours load there, and run there."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.peers import needed, needs_dockerd, peers
from tests.conftest import Daemon
from tests.system.test_images import build

pytestmark = [pytest.mark.root, pytest.mark.slow, needed]
NAME = "wherry-archive-test"
STEPS = "FROM bb\nRUN mkdir /d && echo 1 > /d/one && ln /d/one /d/two\nRUN echo 2 > /d/three && rm /etc/group\nCMD cat /d/two /d/three\n"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that the peers see too."""
    root = Path(tempfile.mkdtemp(prefix="wherry-archives-", dir="/tmp"))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def ours(engine: Daemon, place: Path) -> str:
    """Our archive of two images under three names; the id of the first."""
    ident = build(engine, place / "context", STEPS, "-t", f"{NAME}:1")
    engine.run("tag", f"{NAME}:1", f"{NAME}:again")
    engine.run("tag", "bb", f"{NAME}:base")
    engine.run("save", "-o", f"{place}/ours.tar", f"{NAME}:1", f"{NAME}:again", f"{NAME}:base")
    engine.run("rmi", f"{NAME}:1", f"{NAME}:again", f"{NAME}:base")
    return ident


def loaded(engine: Daemon, archive: Path, name: str, ident: str) -> None:
    """It loads under ``name``, is the same image, and runs."""
    assert f"Loaded image: {name}" in engine.out("load", "-i", str(archive))
    assert engine.out("image", "inspect", "-f", "{{.Id}}", name) == ident
    assert engine.out("run", "--rm", name) == "1\n2"
    engine.run("rmi", name)


def test_docker_loads_ours_runs_it_and_its_own_archive_comes_back(engine: Daemon, ours: str, place: Path) -> None:
    needs_dockerd()
    names = [f"{NAME}:{tag}" for tag in ("1", "again", "base")]
    try:
        told = peers("docker", "load", "-i", f"{place}/ours.tar").splitlines()
        assert sorted(told) == [f"Loaded image: {name}" for name in names]
        assert peers("docker", "image", "inspect", "-f", "{{.Id}}", names[1]) == ours
        assert peers("docker", "run", "--rm", "--network", "none", names[0]) == "1\n2"
        peers("docker", "save", "-o", f"{place}/docker.tar", names[0])
        peers("docker", "save", "-o", f"{place}/docker-id.tar", ours)
    finally:
        peers("docker", "rmi", "-f", *names, check=False)
    loaded(engine, place / "docker.tar", names[0], ours)
    assert engine.out("load", "-i", f"{place}/docker-id.tar") == f"Loaded image ID: {ours}"
    engine.run("rmi", ours)


def test_podman_loads_ours_runs_it_and_its_archives_come_back(engine: Daemon, ours: str, place: Path) -> None:
    store = f"{place}/podman"
    podman = f"podman --root {store}/root --runroot {store}/run --storage-driver vfs"
    script = f"""set -e; trap 'rm -rf {store}' EXIT; cd {place}
        {podman} load -q -i ours.tar
        {podman} run --rm --network none localhost/{NAME}:1
        for format in docker-archive oci-archive; do {podman} save -q --format $format -o podman-$format.tar localhost/{NAME}:1; done
        {podman} save -q -m -o podman-several.tar localhost/{NAME}:1 localhost/{NAME}:base
    """
    assert peers("in", "bash", "-c", script).splitlines()[-2:] == ["1", "2"]
    loaded(engine, place / "podman-docker-archive.tar", f"localhost/{NAME}:1", ours)
    assert len(engine.out("load", "-i", f"{place}/podman-several.tar").splitlines()) == 2
    engine.run("rmi", f"localhost/{NAME}:1", f"localhost/{NAME}:base")
    engine.run("load", "-i", f"{place}/podman-oci-archive.tar")  # its config is written anew, so the id is another
    assert engine.out("run", "--rm", f"localhost/{NAME}:1") == "1\n2"
    engine.run("rmi", f"localhost/{NAME}:1")


def test_skopeo_reads_ours_and_its_archives_come_back(engine: Daemon, ours: str, place: Path) -> None:
    source = f"docker-archive:{place}/ours.tar:{NAME}:1"
    script = f"""set -e; cd {place}
        skopeo copy -q {source} docker-archive:{place}/skopeo-docker.tar:{NAME}:sk
        skopeo copy -q {source} oci-archive:{place}/skopeo-oci.tar:{NAME}:sk
        skopeo copy -q --dest-compress-format zstd {source} oci:{place}/zstd:{NAME}:sk
        skopeo copy -q {source} dir:{place}/dir
        for name in zstd dir; do tar -C $name -czf skopeo-$name.tar.gz .; done
        skopeo inspect --config {source}
    """
    assert json.loads(peers("in", "bash", "-c", script))["config"]["Cmd"] == ["/bin/sh", "-c", "cat /d/two /d/three"]
    loaded(engine, place / "skopeo-docker.tar", f"{NAME}:sk", ours)
    for archive in ("skopeo-oci.tar", "skopeo-zstd.tar.gz"):
        engine.run("load", "-i", f"{place}/{archive}")
        assert engine.out("run", "--rm", f"{NAME}:sk") == "1\n2"
        engine.run("rmi", f"{NAME}:sk")
    assert engine.out("load", "-i", f"{place}/skopeo-dir.tar.gz") == f"Loaded image ID: {ours}"
    engine.run("rmi", ours)


def test_the_same_images_make_the_same_archive_as_dockers_but_for_times(engine: Daemon, ours: str, place: Path) -> None:
    needs_dockerd()
    names = [f"{NAME}:1", f"{NAME}:base"]
    engine.run("load", "-i", f"{place}/ours.tar")
    for name in ("first.tar", "second.tar"):
        engine.run("save", "-o", f"{place}/{name}", *names)
    assert (place / "first.tar").read_bytes() == (place / "second.tar").read_bytes()
    try:
        peers("docker", "load", "-i", f"{place}/first.tar")
        peers("docker", "save", "-o", f"{place}/theirs.tar", *names)
    finally:
        peers("docker", "rmi", "-f", *names, check=False)
    mine, theirs = _small(place / "first.tar"), _small(place / "theirs.tar")
    for name in ("oci-layout", "repositories"):
        assert json.loads(mine[name]) == json.loads(theirs[name])
    for name, key in (("manifest.json", "Config"), ("index.json", "digest")):
        both = [json.loads(files[name]) for files in (mine, theirs)]
        one, other = (sorted(found if isinstance(found, list) else found["manifests"], key=lambda item: str(item[key])) for found in both)
        assert one == other
    engine.run("rmi", f"{NAME}:1", f"{NAME}:again", f"{NAME}:base")


def _small(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {item.name: archive.extractfile(item).read() for item in archive if item.isfile() and item.size < 100_000}  # type: ignore[union-attr]
