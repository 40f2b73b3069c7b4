"""Docker, BuildKit, Podman, Buildah, skopeo and containerd push to and pull from our registry.

``WHERRY_PEERS`` names the program that runs them (``PROGRAM docker ARG...``, ``PROGRAM in COMMAND...`` for the others); where it is not set
and not beside the project, or its dockerd does not run, these tests are skipped. They share ``/tmp`` and loopback with the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.registry.conftest import OCI_INDEX, OCI_MANIFEST, WHERRY, Registry, debian_at, digest_of, ours_at

PEERS = Path(os.environ.get("WHERRY_PEERS") or Path(__file__).parents[3] / "shared" / "peers" / "peers")
TREE = Path(os.environ.get("PEERS") or Path.home() / ".cache" / "peers") / "sid"
PLAIN = ("--src-tls-verify=false", "--dest-tls-verify=false")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PEERS.exists() or not (TREE / ".ready").exists(), reason="needs the peers (WHERRY_PEERS)"),
]


def peers(*words: str, check: bool = True, errors: bool = False) -> str:
    """What it printed; with ``errors`` on standard error too."""
    done = subprocess.run([str(PEERS), *words], capture_output=True, text=True, check=False, timeout=110)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip() + (done.stderr if errors else "")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that the peers see too, with the context of a small image."""
    root = Path(tempfile.mkdtemp(prefix="wherry-peers-", dir="/tmp"))
    (root / "context").mkdir()
    shutil.copy("/bin/busybox", root / "context")
    (root / "context" / "Dockerfile").write_text('FROM scratch\nCOPY busybox /bin/\nCMD ["/bin/busybox", "echo", "it runs"]\n')
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def registry(place: Path) -> Iterator[Registry]:
    with ours_at(place / "data", log=place / "log") as found:
        yield found


@pytest.fixture(scope="module")
def docker(registry: Registry, place: Path) -> Iterator[str]:
    """An image in Docker: its name in our registry, where it was pushed to."""
    if not peers("docker", "version", "--format", "{{.Server.Version}}", check=False):
        pytest.skip("the peers' dockerd does not run")
    name = f"{registry.host}/wherry-registry-test/app:1"
    peers("docker", "build", "-q", "-t", name, str(place / "context"))
    try:
        peers("docker", "push", "-q", name)
        yield name
    finally:
        peers("docker", "rmi", "-f", name, check=False)


def _layer_types(registry: Registry, name: str, tag: str) -> set[str]:
    return {layer["mediaType"] for layer in registry.call("GET", f"/v2/{name}/manifests/{tag}").json["layers"]}


def test_docker_pulls_what_it_pushed(docker: str) -> None:
    peers("docker", "rmi", docker)
    peers("docker", "pull", "-q", docker)
    assert peers("docker", "run", "--rm", docker) == "it runs"
    assert "manifest" in peers("docker", "manifest", "inspect", "--insecure", docker)


def test_docker_pushes_again_without_sending_layers(docker: str, registry: Registry) -> None:
    again = docker.replace("/app:1", "/mounted:2")
    peers("docker", "tag", docker, again)
    try:
        peers("docker", "push", "-q", again)
    finally:
        peers("docker", "rmi", again)
    assert registry.log is not None
    lines = [line for line in registry.log.read_text().splitlines() if "wherry-registry-test/mounted" in line]
    assert any('"POST ' in line and "mount=" in line and " 201 " in line for line in lines)
    assert not any('"PATCH ' in line for line in lines if "config" in line)


def test_buildx_pushes_what_it_built(docker: str, registry: Registry, place: Path) -> None:
    name = docker.replace("/app:1", "/built:1")
    peers("docker", "buildx", "build", "-q", "--push", "-t", name, str(place / "context"))
    try:
        assert registry.call("GET", "/v2/wherry-registry-test/built/manifests/1").status == 200
        peers("docker", "buildx", "imagetools", "create", "-t", name.replace(":1", ":list"), name, docker)
        index = registry.call("GET", "/v2/wherry-registry-test/built/manifests/list")
        assert index.json["manifests"]
        assert "MediaType" in peers("docker", "buildx", "imagetools", "inspect", name.replace(":1", ":list"))
    finally:
        peers("docker", "rmi", "-f", name, check=False)


def test_skopeo_copies_every_platform_and_compression(registry: Registry, place: Path) -> None:
    layout = _layout(place / "layout")
    for kind in ("gzip", "zstd", "zstd:chunked"):
        name = f"wherry-registry-test/multi-{kind.replace(':', '-')}"
        target = f"docker://{registry.host}/{name}:all"
        flags = ("--all", *PLAIN, "--dest-compress-format", kind, "--dest-force-compress-format")
        peers("in", "skopeo", "copy", *flags, f"oci:{layout}:all", target)
        index = registry.call("GET", f"/v2/{name}/manifests/all")
        assert index.headers["content-type"] == OCI_INDEX
        assert sorted(item["platform"]["architecture"] for item in index.json["manifests"]) == ["amd64", "arm64"]
        for item in index.json["manifests"]:
            assert _layer_types(registry, name, item["digest"]) == {f"application/vnd.oci.image.layer.v1.tar+{kind.partition(':')[0]}"}
        copy = place / f"copy-{kind.replace(':', '-')}"
        peers("in", "skopeo", "copy", "--all", *PLAIN, target, f"dir:{copy}")
        assert (copy / "manifest.json").read_bytes() == index.body
    tags = json.loads(peers("in", "skopeo", "list-tags", "--tls-verify=false", f"docker://{registry.host}/wherry-registry-test/multi-gzip"))
    assert tags["Tags"] == ["all"]
    peers("in", "skopeo", "delete", "--tls-verify=false", f"docker://{registry.host}/wherry-registry-test/multi-gzip:all")
    assert registry.call("GET", "/v2/wherry-registry-test/multi-gzip/manifests/all").status == 404


def test_podman_pushes_a_list_and_runs_what_it_pulls(docker: str, registry: Registry) -> None:
    pulled = docker
    listed = f"{registry.host}/wherry-registry-test/listed:1"
    try:
        peers("podman", "pull", "-q", "--tls-verify=false", pulled)
        assert peers("podman", "run", "--rm", pulled) == "it runs"
        peers("podman", "manifest", "create", listed, pulled)
        peers("podman", "manifest", "push", "--all", "--tls-verify=false", listed, f"docker://{listed}")
        peers("podman", "push", "-q", "--tls-verify=false", "--compression-format", "zstd", pulled, listed.replace(":1", ":zstd"))
    finally:
        peers("podman", "manifest", "rm", listed, check=False)
        peers("podman", "rmi", "-f", pulled, check=False)
    index = registry.call("GET", "/v2/wherry-registry-test/listed/manifests/1")
    assert index.status == 200
    assert len(index.json["manifests"]) == 1


def test_buildah_builds_and_pushes(registry: Registry, place: Path) -> None:
    name = f"{registry.host}/wherry-registry-test/buildah:1"
    storage = ("--storage-driver", "vfs", "--root", str(place / "buildah"), "--runroot", str(place / "buildah-run"))
    peers("in", "buildah", *storage, "build", "-q", "--isolation", "chroot", "-t", name, str(place / "context"))
    peers("in", "buildah", *storage, "push", "-q", "--tls-verify=false", name)
    assert registry.call("GET", "/v2/wherry-registry-test/buildah/manifests/1").headers["content-type"] == OCI_MANIFEST


def test_peers_log_in_with_a_password(docker: str, place: Path, tmp_path: Path) -> None:
    line = subprocess.run([WHERRY, "registry", "passwd", "ann"], input="s3cret\n", capture_output=True, text=True, check=True).stdout
    (tmp_path / "htpasswd").write_text(line)
    with ours_at(tmp_path / "data", "--htpasswd", str(tmp_path / "htpasswd"), log=tmp_path / "log") as private:
        name = f"{private.host}/wherry-registry-test/private:1"
        config = ("--config", str(place / "docker-config"))
        peers("docker", "tag", docker, name)
        try:
            assert "no basic auth credentials" in peers("docker", *config, "push", name, check=False, errors=True)
            assert (
                "unauthorized"
                in peers("docker", *config, "login", "-u", "ann", "-p", "wrong", private.host, check=False, errors=True).lower()
            )
            peers("docker", *config, "login", "-u", "ann", "-p", "s3cret", private.host)
            peers("docker", *config, "push", "-q", name)
        finally:
            peers("docker", "rmi", name)
        source = f"docker://{name}"
        assert peers("in", "skopeo", "inspect", "--tls-verify=false", "--creds", "ann:wrong", source, check=False) == ""
        assert "linux" in peers("in", "skopeo", "inspect", "--tls-verify=false", "--creds", "ann:s3cret", source)
        try:
            peers("podman", "pull", "-q", "--tls-verify=false", "--creds", "ann:s3cret", name)
        finally:
            peers("podman", "rmi", "-f", name, check=False)


def test_an_artifact_with_a_subject_travels_between_registries(docker: str, registry: Registry, place: Path, tmp_path: Path) -> None:
    found = registry.call("GET", "/v2/wherry-registry-test/app/manifests/1")
    subject = {"mediaType": found.headers["content-type"], "digest": digest_of(found.body), "size": len(found.body)}
    raw = registry.manifest("wherry-registry-test/app", b"signature", subject=subject, artifactType="application/x-signature")
    assert registry.put("wherry-registry-test/app", digest_of(raw), raw).headers["oci-subject"] == subject["digest"]
    assert registry.put("wherry-registry-test/app", "signature", raw).status == 201
    with ours_at(tmp_path / "second", log=tmp_path / "log") as second:
        source = f"docker://{registry.host}/wherry-registry-test/app"
        for tag in ("1", "signature"):
            peers("in", "skopeo", "copy", "--preserve-digests", *PLAIN, f"{source}:{tag}", f"docker://{second.host}/copy/app:{tag}")
        listed = second.call("GET", f"/v2/copy/app/referrers/{subject['digest']}").json["manifests"]
    assert [(item["digest"], item["artifactType"]) for item in listed] == [(digest_of(raw), "application/x-signature")]


def test_clients_pull_through_a_cache_of_the_distribution_projects_registry(debian_behind: Registry, docker: str, tmp_path: Path) -> None:
    behind = f"{debian_behind.host}/wherry-registry-test/app:1"
    peers("docker", "tag", docker, behind)
    try:
        peers("docker", "push", "-q", behind)
    finally:
        peers("docker", "rmi", behind)
    with ours_at(tmp_path / "cache", "--proxy", f"http://{debian_behind.host}", log=tmp_path / "log") as cache:
        through = behind.replace(debian_behind.host, cache.host)
        try:
            peers("docker", "pull", "-q", through)
            peers("podman", "pull", "-q", "--tls-verify=false", through)
            debian_behind.process.kill()  # type: ignore[union-attr]
            peers("docker", "rmi", through)
            peers("docker", "pull", "-q", through)
            assert peers("docker", "run", "--rm", through) == "it runs"
        finally:
            peers("docker", "rmi", "-f", through, check=False)
            peers("podman", "rmi", "-f", through, check=False)


@pytest.fixture
def debian_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with debian_at(tmp_path_factory.mktemp("debian")) as found:
        yield found


def _layout(place: Path) -> Path:
    """An OCI layout of one image for two platforms."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}

    manifests = []
    for architecture in ("amd64", "arm64"):
        tar = place / f"{architecture}.tar"
        (place / "file").write_text(architecture * 5000)
        subprocess.run(["tar", "-cf", str(tar), "-C", str(place), "file"], check=True)
        layer = tar.read_bytes()
        config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [blob(layer, "application/vnd.oci.image.layer.v1.tar")],
        }
        platform = {"os": "linux", "architecture": architecture}
        manifests.append(blob(json.dumps(manifest).encode(), OCI_MANIFEST, platform=platform))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    listed = blob(json.dumps(index).encode(), OCI_INDEX, annotations={"org.opencontainers.image.ref.name": "all"})
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place
