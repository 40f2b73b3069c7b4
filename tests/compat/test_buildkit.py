"""What BuildKit exports and pushes and Docker's containerd store saves loads and runs here; what we save and push does there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compat.containerd_store import ContainerdStore, cgroups, containerd_store
from tests.compat.docker_cli import DockerCli, find_docker
from tests.compat.peers import needed, needs_dockerd, peers
from tests.conftest import Daemon
from tests.registry.conftest import OCI_INDEX, OCI_MANIFEST, Registry, debian_at, digest_of, ours_at

from wherry.spec.image import DOCKER_MANIFEST

pytestmark = [pytest.mark.root, pytest.mark.slow, needed]
NAME = "wherry-buildkit-test"
TAG = f"{NAME}:1"
DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/
RUN --network=none ["/bin/busybox", "--install", "-s", "/bin"]
FROM base
COPY note.txt /note
RUN --network=none mkdir /d && echo 1 > /d/one && ln /d/one /d/two
RUN --network=none echo 2 > /d/three && rm /note
LABEL about="<several> words"
CMD ["cat", "/d/two", "/d/three"]
"""
PLATFORMS = """\
FROM scratch
ARG TARGETARCH
COPY busybox note.txt /bin/
COPY note.txt /for-$TARGETARCH
CMD ["/bin/busybox", "ls", "/"]
"""
GZIP = "compression=gzip,force-compression=true"
ZSTD = "compression=zstd,force-compression=true"
RUN = ("run", "--rm", "--network", "none")
FACTS = "{{.Id}} {{.RepoTags}} {{.RepoDigests}} {{.Architecture}} {{.Size}} {{.RootFS.Layers}} {{.Config.Cmd}}"


@pytest.fixture(scope="module")
def store() -> Iterator[ContainerdStore]:
    with containerd_store() as running:
        yield running


@pytest.fixture(scope="module")
def context(store: ContainerdStore) -> Path:
    return context_in(store)


def context_in(store: ContainerdStore) -> Path:
    context = store.place / "context"
    context.mkdir()
    shutil.copy("/bin/busybox", context)
    (context / "note.txt").write_bytes(os.urandom(1_200_000))  # more than what is kept in memory of an archive
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "platforms").write_text(PLATFORMS)
    return context


@pytest.fixture(autouse=True)
def nothing_here(engine: Daemon) -> Iterator[None]:
    before = set(engine.out("images", "-q", "--no-trunc").split())
    yield
    for ident in set(engine.out("images", "-q", "--no-trunc").split()) - before:
        engine.run("rmi", "-f", ident)


def export(store: ContainerdStore, context: Path, output: str, *words: str) -> Path:
    """The archive that ``buildx build`` writes as ``output`` says."""
    archive = store.place / "archive.tar"
    store.build(context, "--tag", TAG, "--output", f"{output},dest={archive}", *words)
    return archive


def for_platforms(context: Path, *names: str) -> tuple[str, ...]:
    return ("--file", f"{context}/platforms", "--platform", ",".join(f"linux/{name}" for name in names))


def members(archive: Path) -> dict[str, Any]:
    """Its JSON documents, by name."""
    with tarfile.open(archive) as tar:
        small = {item.name: tar.extractfile(item).read() for item in tar if item.isfile() and item.size < 100_000}  # type: ignore[union-attr]
    return {name: json.loads(data) for name, data in small.items() if data.startswith((b"{", b"["))}


def architecture(engine: Daemon, name: str = TAG) -> str:
    return engine.out("image", "inspect", "-f", "{{.Architecture}}", name)


@pytest.mark.parametrize(
    "output", ["oci", f"oci,{ZSTD}", "oci,compression=uncompressed,force-compression=true", "docker", f"docker,{ZSTD}"]
)
def test_an_archive_of_either_exporter(output: str, store: ContainerdStore, context: Path, engine: Daemon, tmp_path: Path) -> None:
    archive = export(store, context, f"type={output}")
    assert engine.out("load", "-i", str(archive)) == f"Loaded image: {TAG}"
    documents = members(archive)
    top = documents["index.json"]["manifests"][0]["digest"]
    config = documents[f"blobs/sha256/{top.removeprefix('sha256:')}"]["config"]["digest"]
    assert engine.out("image", "inspect", "-f", "{{.Id}} {{.Config.Labels.about}}", TAG) == f"{config} <several> words"
    assert engine.out(*RUN, TAG) == "1\n2"
    program = find_docker()
    if program is not None:
        assert DockerCli(engine=engine, program=program, config=tmp_path).out("load", "-i", str(archive)) == f"Loaded image: {TAG}"


def test_an_archive_with_attestations_and_several_names(store: ContainerdStore, context: Path, engine: Daemon) -> None:
    other = f"{NAME}.example/x/y:3"
    archive = export(store, context, "type=oci", "--provenance=mode=max", "--tag", other)
    indexes = [document for name, document in members(archive).items() if "manifests" in document and name != "index.json"]
    assert [entry["platform"]["os"] for entry in indexes[0]["manifests"]] == ["linux", "unknown"]
    assert sorted(engine.out("load", "-i", str(archive)).splitlines()) == [f"Loaded image: {other}", f"Loaded image: {TAG}"]
    assert engine.out(*RUN, other) == "1\n2"


def test_a_directory_and_an_archive_without_a_name(store: ContainerdStore, context: Path, engine: Daemon) -> None:
    archive, folder = store.place / "archive.tar", store.place / "folder"
    store.build(context, "--output", f"type=oci,dest={archive}")
    told = engine.out("load", "-i", str(archive))
    store.build(context, "--tag", TAG, "--output", f"type=oci,tar=false,dest={folder}", "--provenance=true")
    subprocess.run(["tar", "-C", str(folder), "-cf", str(archive), "."], check=True)
    assert engine.out("load", "-i", str(archive)) == f"Loaded image: {TAG}"
    assert told == f"Loaded image ID: {engine.out('image', 'inspect', '-f', '{{.Id}}', TAG)}"


def test_an_archive_for_several_platforms_and_one_for_other_machines(store: ContainerdStore, context: Path, engine: Daemon) -> None:
    archive = export(store, context, "type=oci", *for_platforms(context, "amd64", "arm64"), "--provenance=true")
    engine.run("load", "-i", str(archive))
    assert f"for-{architecture(engine)}" in engine.out(*RUN, TAG)
    for wanted in ("arm64", "amd64"):
        engine.run("load", "--platform", f"linux/{wanted}", "-i", str(archive))
        assert architecture(engine) == wanted
    refused = engine.run("load", "--platform", "linux/s390x", "-i", str(archive), check=False)
    assert refused.code == 1
    assert "no matching manifest for linux/s390x in the manifest list entries" in refused.err
    archive = export(store, context, "type=oci", *for_platforms(context, "s390x"), "--provenance=true")
    assert engine.out("load", "-i", str(archive)).endswith(f"Loaded image: {TAG}")
    assert architecture(engine) == "s390x"


def test_archives_of_its_docker_save(store: ContainerdStore, context: Path, engine: Daemon) -> None:
    archive, several = store.place / "saved.tar", f"{NAME}:several"
    store.docker("load", "-i", str(export(store, context, f"type=oci,{ZSTD}", "--provenance=true")))
    store.build(context, "--tag", several, "--load", *for_platforms(context, "amd64", "arm64"), "--provenance=true")
    store.docker("save", "-o", str(archive), TAG, several)
    assert sorted(engine.out("load", "-i", str(archive)).splitlines()) == [f"Loaded image: {TAG}", f"Loaded image: {several}"]
    assert engine.out(*RUN, TAG) == "1\n2"
    far = "arm64" if architecture(engine, several) == "amd64" else "amd64"
    engine.run("load", "--platform", f"linux/{far}", "-i", str(archive))  # its manifest.json has this machine's alone
    assert architecture(engine, several) == far
    store.docker("save", "-o", str(archive), store.docker("image", "inspect", "-f", "{{.Id}}", TAG))
    assert engine.out("load", "-i", str(archive)).startswith("Loaded image ID: sha256:")
    store.docker("save", "--platform", f"linux/{far}", "-o", str(archive), several)
    assert engine.out("load", "-i", str(archive)) == f"Loaded image: {several}"


def test_it_loads_ours_runs_it_and_builds_on_it(store: ContainerdStore, context: Path, engine: Daemon) -> None:
    again, far = f"{NAME}:again", f"{NAME}:far"
    engine.run("load", "-i", str(export(store, context, "type=oci", *for_platforms(context, "s390x"))))
    engine.run("tag", TAG, far)
    engine.run("load", "-i", str(export(store, context, "type=docker")))
    engine.run("tag", TAG, again)
    ours, layout, upper = (store.place / name for name in ("ours.tar", "layout", "upper"))
    engine.run("save", "-o", str(ours), TAG, again, far)
    store.docker("rmi", "-f", TAG, check=False)
    told = store.docker("load", "-i", str(ours)).splitlines()
    assert sorted(told) == sorted(f"Loaded image: {name}" for name in (TAG, again, far))
    assert store.docker(*RUN, again) == "1\n2"
    assert store.docker("image", "inspect", "-f", "{{.Architecture}}", far) == "s390x"
    layout.mkdir()
    subprocess.run(["tar", "-C", str(layout), "-xf", str(ours)], check=True)
    upper.mkdir()
    (upper / "Dockerfile").write_text('FROM base\nRUN --network=none echo 4 > /d/four\nCMD ["cat", "/d/four"]\n')
    engine.run("load", "-i", str(export(store, upper, "type=oci", "--build-context", f"base=oci-layout://{layout}:again")))
    assert engine.out(*RUN, TAG) == "4"


@pytest.fixture(scope="module", params=["ours", "distribution"])
def registry(request: pytest.FixtureRequest, store: ContainerdStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Ours, and the distribution project's; the store reaches it."""
    root = tmp_path_factory.mktemp("registry")
    opened = ours_at(root / "data", log=root / "log") if request.param == "ours" else debian_at(root)
    with opened as running, store.sees(int(running.host.rpartition(":")[2])):
        yield running


def facts(ask: Callable[..., str], name: str) -> str:
    """What a client says of an image."""
    steps = ask("history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}} {{.Comment}}", name)
    return f"{ask('image', 'inspect', '-f', FACTS, name)}\n{steps}"


def docker(*words: str) -> str:
    return peers("docker", *words)


def layers_of(registry: Registry, path: str) -> list[tuple[str, str]]:
    found = registry.call("GET", f"/v2/{path}", headers={"Accept": OCI_MANIFEST})
    return [(layer["mediaType"], layer["digest"]) for layer in found.json["layers"]]


def test_a_push_for_several_platforms_with_attestations(registry: Registry, store: ContainerdStore, context: Path, engine: Daemon) -> None:
    name = f"{registry.host}/{NAME}:1"
    store.build(context, "--tag", name, "--output", f"type=registry,{ZSTD}", *for_platforms(context, "amd64", "arm64"), "--provenance=true")
    found = registry.call("GET", f"/v2/{NAME}/manifests/1", headers={"Accept": OCI_INDEX})
    assert [entry["platform"]["architecture"] for entry in found.json["manifests"]] == ["amd64", "arm64", "unknown", "unknown"]
    index, proof = digest_of(found.body), found.json["manifests"][2]["digest"]
    by_digest = f"{registry.host}/{NAME}@{index}"
    engine.run("pull", "--platform", "linux/arm64", name)
    assert architecture(engine, name) == "arm64"
    engine.run("rmi", name)
    for asked in (name, by_digest):
        assert f"Digest: {index}" in engine.out("pull", asked)
    here = architecture(engine, name)
    assert f"for-{here}" in engine.out(*RUN, by_digest)
    shown = json.loads(engine.out("manifest", "inspect", "--insecure", name))
    assert [entry["platform"]["os"] for entry in shown["manifests"]] == ["linux", "linux", "unknown", "unknown"]
    refused = engine.run("pull", f"{registry.host}/{NAME}@{proof}", check=False)
    assert "unsupported media type application/vnd.in-toto+json" in refused.err
    refused = engine.run("pull", "--platform", "linux/s390x", name, check=False)
    assert "no matching manifest for linux/s390x in the manifest list entries" in refused.err
    again = f"{registry.host}/{NAME}/again:1"
    engine.run("tag", name, again)
    engine.run("push", again)
    digests = {entry["platform"]["architecture"]: entry["digest"] for entry in found.json["manifests"]}
    assert layers_of(registry, f"{NAME}/again/manifests/1") == layers_of(registry, f"{NAME}/manifests/{digests[here]}")
    store.docker("pull", "-q", again)
    engine.run("rmi", again)
    engine.run("pull", "-q", again)
    names = (name, by_digest, again)
    needs_dockerd()
    try:
        for asked in names:
            docker("pull", "-q", asked)
        assert [facts(engine.out, asked) for asked in names] == [facts(docker, asked) for asked in names]
    finally:
        peers("docker", "rmi", "-f", *names, check=False)


def test_a_push_that_is_pulled_and_pushed_again_as_docker_does(
    registry: Registry, store: ContainerdStore, context: Path, engine: Daemon
) -> None:
    name = f"{registry.host}/{NAME}/first:1"
    store.build(context, "--tag", name, "--output", f"type=registry,{GZIP}", "--provenance=true")  # Docker calls every other layer gzip too
    engine.run("pull", "-q", name)
    told = facts(engine.out, name)
    again, dockers = f"{registry.host}/{NAME}/ours:1", f"{registry.host}/{NAME}/dockers:1"
    engine.run("tag", name, again)
    assert "Mounted from" in engine.out("push", again)
    store.docker("pull", "-q", again)
    assert store.docker(*RUN, again) == "1\n2"
    needs_dockerd()
    try:
        docker("pull", "-q", name)
        assert told == facts(docker, name)
        docker("tag", name, dockers)
        docker("push", "-q", dockers)
    finally:
        peers("docker", "rmi", "-f", name, dockers, check=False)
    ours, theirs = (
        registry.call("GET", f"/v2/{NAME}/{who}/manifests/1", headers={"Accept": DOCKER_MANIFEST}) for who in ("ours", "dockers")
    )
    assert (ours.status, ours.body) == (200, theirs.body)


@pytest.mark.parametrize("registry", ["ours"], indirect=True)
def test_what_it_pushes_of_its_own_and_a_cache_of_builds(registry: Registry, store: ContainerdStore, context: Path, engine: Daemon) -> None:
    name, cache = f"{registry.host}/{NAME}/pushed:1", f"{registry.host}/{NAME}/cache:1"
    store.build(context, "--tag", name, "--load", "--provenance=true", "--cache-to", f"type=registry,ref={cache},mode=max")
    store.docker("push", "-q", name)
    engine.run("pull", "-q", name)
    assert engine.out(*RUN, name) == "1\n2"
    refused = engine.run("pull", cache, check=False)
    assert "unsupported media type application/vnd.buildkit.cacheconfig.v0" in refused.err
    store.docker("buildx", "prune", "-af")
    command = ("--cache-from", f"type=registry,ref={cache}", "--output", f"type=oci,dest={store.place}/archive.tar")
    assert '"cached":true' in store.docker("buildx", "build", "--progress", "rawjson", *command, str(context), errors=True)


def test_nothing_is_left_of_the_second_docker() -> None:
    with containerd_store() as brief:
        brief.build(context_in(brief), "--tag", TAG, "--load")
        brief.docker("run", "-d", "--stop-timeout", "0", "--network", "none", TAG, "sleep", "600")
        name = brief.place.name
        assert cgroups(name)
        assert _mentions(name)
    assert not brief.place.exists()
    assert not cgroups(name)
    assert not _mentions(name)


def _mentions(name: str) -> list[str]:
    """Processes and mounts of this machine that name it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [text for file in ("cmdline", "mounts") if name in (text := (process / file).read_text(errors="replace"))]
    return found
