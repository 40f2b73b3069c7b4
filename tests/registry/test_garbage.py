from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.registry.conftest import CONFIG, OCI_INDEX, OCI_MANIFEST, WHERRY, digest_of, manifest_of

from wherry.registry import documents
from wherry.registry.garbage import Collected, collect
from wherry.registry.gate import Gate
from wherry.registry.holdings import Holdings, UnknownBlob, blob_key, link_key
from wherry.registry.naming import AnyDigest
from wherry.registry.objects import Directory


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(str(tmp_path / "gate"))


@pytest.fixture
def holdings(tmp_path: Path, gate: Gate) -> Holdings:
    return Holdings(Directory(str(tmp_path / "objects"), str(tmp_path / "staging")), gate)


def _blob(holdings: Holdings, name: str, data: bytes, tmp_path: Path) -> AnyDigest:
    path = tmp_path / "upload"
    path.write_bytes(data)
    digest = AnyDigest(digest_of(data))
    holdings.add_blob(name, digest, str(path))
    return digest


def _image(holdings: Holdings, name: str, layer: bytes, tmp_path: Path) -> AnyDigest:
    raw = manifest_of(_blob(holdings, name, CONFIG, tmp_path), _blob(holdings, name, layer, tmp_path), len(layer))
    return holdings.put_manifest(name, "1", raw, documents.read(raw))


def test_what_no_manifest_names_goes_and_the_rest_stays(holdings: Holdings, gate: Gate, tmp_path: Path) -> None:
    _image(holdings, "app", b"kept", tmp_path)
    left = _blob(holdings, "app", b"left over", tmp_path)
    kept = AnyDigest(digest_of(b"kept"))
    assert holdings.mount_blob("other", kept, "app")
    orphan = AnyDigest(digest_of(b"orphan"))
    holdings.objects.write(blob_key(orphan), b"orphan")  # a server that died between a blob and its link
    assert collect(holdings, gate, young_s=3600) == Collected()
    wanted = Collected(links=2, blobs=2, size_bytes=15)
    assert collect(holdings, gate, young_s=-1, dry_run=True) == wanted
    assert holdings.has_blob("app", left)
    assert collect(holdings, gate, young_s=-1) == wanted
    assert collect(holdings, gate, young_s=-1) == Collected()
    assert [holdings.has_blob("app", left), holdings.has_blob("other", kept), holdings.has_blob("app", kept)] == [False, False, True]
    assert not holdings.objects.exists(blob_key(orphan))
    assert holdings.blob_size("app", kept) == 4


def test_a_manifest_that_comes_while_others_are_read_keeps_its_blobs(
    holdings: Holdings, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(holdings, "app", b"first", tmp_path)
    config, layer = _blob(holdings, "app", CONFIG, tmp_path), _blob(holdings, "app", b"late", tmp_path)
    raw = manifest_of(config, layer, 4)
    real = holdings.manifest
    came: list[AnyDigest] = []

    def slow(name: str, what: AnyDigest | str) -> Any:
        found = real(name, what)
        if not came:
            came.append(holdings.put_manifest("app", "2", raw, documents.read(raw)))
        return found

    monkeypatch.setattr(holdings, "manifest", slow)
    assert collect(holdings, gate, young_s=-1) == Collected()
    assert holdings.has_blob("app", layer)


def test_manifests_that_no_tag_leads_to_go_when_asked(holdings: Holdings, gate: Gate, tmp_path: Path) -> None:
    def manifest(layer: bytes, what: str = "", **more: Any) -> AnyDigest:
        raw = manifest_of(_blob(holdings, "app", CONFIG, tmp_path), _blob(holdings, "app", layer, tmp_path), len(layer), **more)
        return holdings.put_manifest("app", what or AnyDigest(digest_of(raw)), raw, documents.read(raw))

    def about(digest: AnyDigest) -> dict[str, Any]:
        return {"subject": {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}}

    old, child, lone = manifest(b"old", "latest"), manifest(b"child"), manifest(b"lone")
    new = manifest(b"new", "latest")
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": OCI_MANIFEST, "digest": child, "size": 1}]})
    listed = holdings.put_manifest("app", "all", index.encode(), documents.read(index.encode()))
    signature = manifest(b"signature", **about(new))
    stamp = manifest(b"stamp", **about(signature))
    stale = manifest(b"stale", **about(old))
    assert collect(holdings, gate, young_s=3600, untagged=True) == Collected()
    assert collect(holdings, gate, young_s=-1) == Collected()
    wanted = Collected(manifests=3, links=3, blobs=3, size_bytes=len(b"oldlonestale"))
    assert collect(holdings, gate, young_s=-1, untagged=True, dry_run=True) == wanted
    assert set(holdings.manifests("app")) == {old, child, lone, new, listed, signature, stamp, stale}
    assert collect(holdings, gate, young_s=-1, untagged=True) == wanted
    assert set(holdings.manifests("app")) == {child, new, listed, signature, stamp}
    assert holdings.referrers("app", old) == []
    assert collect(holdings, gate, young_s=-1, untagged=True) == Collected()


def test_a_collector_that_dies_leaves_no_link_without_blob(holdings: Holdings, gate: Gate, tmp_path: Path) -> None:
    digest = _blob(holdings, "app", b"left", tmp_path)
    holdings.objects.delete(link_key(digest, "app"))  # as far as it came
    with pytest.raises(FileNotFoundError):
        holdings.blob_size("app", digest)
    raw = manifest_of(_blob(holdings, "app", CONFIG, tmp_path), digest, 4)
    with pytest.raises(UnknownBlob, match=digest):
        holdings.put_manifest("app", "1", raw, documents.read(raw))
    assert collect(holdings, gate, young_s=-1).blobs == 2


def test_the_command_runs_beside_the_server(serve: Any, tmp_path: Path) -> None:
    def gc(*flags: str) -> str:
        command = [WHERRY, "registry", "gc", "--data", str(tmp_path / "registry"), *flags]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with serve() as registry:
        registry.push("a", "1", b"kept")
        registry.blob("a", b"left over")
        assert gc() == "Removed 0 manifests, 0 blobs (0 bytes), 0 links of repositories to blobs\n"
        assert gc("--older-than", "0s", "--dry-run") == "Would remove 0 manifests, 1 blobs (9 bytes), 1 links of repositories to blobs\n"
        assert gc("--older-than", "0s") == "Removed 0 manifests, 1 blobs (9 bytes), 1 links of repositories to blobs\n"
        assert registry.call("HEAD", f"/v2/a/blobs/{digest_of(b'kept')}").status == 200
        assert registry.call("HEAD", f"/v2/a/blobs/{digest_of(b'left over')}").status == 404
        os.unlink(tmp_path / "registry" / "gate")  # even so
        registry.push("a", "2", b"kept")
