from __future__ import annotations

import json
from typing import Any

import pytest
from tests.registry.conftest import OCI_INDEX, OCI_MANIFEST, digest_of

from wherry.registry import documents
from wherry.registry.documents import Child
from wherry.spec.image import DOCKER_INDEX, DOCKER_MANIFEST, InvalidDocument

ONE, TWO, SHA512 = digest_of(b"1"), digest_of(b"2"), digest_of(b"3", "sha512")


def _entry(digest: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": "application/x", "digest": digest, "size": 1, **more}


def _manifest(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _entry(ONE), "layers": [_entry(TWO)], **more}


def test_a_manifest_needs_its_config_and_layers_but_not_what_lives_elsewhere() -> None:
    layers = [
        _entry(TWO),
        _entry(TWO),
        _entry(SHA512),
        _entry(digest_of(b"url"), urls=["https://x/"]),
        _entry(digest_of(b"foreign"), mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        _entry(digest_of(b"nd"), mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
    ]
    found = documents.read(json.dumps(_manifest(layers=layers, unknown={"kept": [1]})).encode(), OCI_MANIFEST)
    assert found.blobs == (ONE, TWO, SHA512)
    assert (found.children, found.subject) == ((), None)


def test_an_artifact_says_its_type_or_that_of_its_config() -> None:
    subject = _entry(SHA512)
    found = documents.read(json.dumps(_manifest(subject=subject, annotations={"a": "b"})).encode())
    assert (found.artifact_type, found.subject, found.annotations) == ("application/x", SHA512, {"a": "b"})
    assert documents.read(json.dumps(_manifest(artifactType="text/sig")).encode()).artifact_type == "text/sig"


def test_an_index_lists_manifests_and_its_lists_may_be_empty() -> None:
    listed = [_entry(ONE, platform={"os": "linux", "architecture": "amd64"}), _entry(TWO)]
    found = documents.read(json.dumps({"schemaVersion": 2, "manifests": listed}).encode(), DOCKER_INDEX)
    assert found.children == (Child(digest=ONE, platform="linux/amd64"), Child(digest=TWO, platform="/"))  # type: ignore[arg-type]
    assert (found.media_type, found.blobs) == (DOCKER_INDEX, ())
    for manifests in ([], None):
        assert documents.read(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()).children == ()
    assert documents.read(json.dumps(_manifest(layers=None)).encode()).blobs == (ONE,)


@pytest.mark.parametrize(
    ("fields", "content_type", "media_type"),
    [
        (_manifest(), "", OCI_MANIFEST),
        (_manifest(), "application/json", OCI_MANIFEST),
        (_manifest(mediaType=None), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (_manifest(mediaType=None), "", OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, "", OCI_INDEX),
        (_manifest(), OCI_MANIFEST + "; charset=utf-8", OCI_MANIFEST),
    ],
)
def test_what_it_is_says_the_document_or_else_the_header(fields: dict[str, Any], content_type: str, media_type: str) -> None:
    assert documents.read(json.dumps(fields).encode(), content_type).media_type == media_type


@pytest.mark.parametrize(
    ("raw", "content_type", "words"),
    [
        (b"", "", "not a manifest"),
        (b"[]", "", "not a manifest"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "", "twice"),
        (b'{"schemaVersion":2,"config":{"a":1,"a":2}}', "", "appears twice"),
        (json.dumps(_manifest()), OCI_INDEX, "but was sent as"),
        (json.dumps(_manifest()), "application/vnd.oci.artifact.manifest.v1+json", "but was sent as"),
        (json.dumps(_manifest(mediaType="application/vnd.oci.artifact.manifest.v1+json")), "", "not an image manifest"),
        (json.dumps(_manifest(schemaVersion=1, mediaType=None)), "", "schema version 1"),
        ('{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1 is not supported"),
        (json.dumps(_manifest(manifests=[])), "", "no 'manifests'"),
        (json.dumps({**_manifest(mediaType=OCI_INDEX), "manifests": []}), "", "no 'layers'"),
        (json.dumps(_manifest(config=None)), "", "has a 'config'"),
        (json.dumps(_manifest(layers=[_entry("sha256:../../etc")])), "", "invalid digest"),
        (json.dumps(_manifest(layers=[_entry(ONE, size=-1)])), "", "not a manifest"),
        (json.dumps(_manifest(layers=[_entry(ONE)] * 2001)), "", "more than 2000 entries"),
        (json.dumps(_manifest(x=[[]] * 200_000)), "", "too many values"),
        ('{"x":' + "[" * 50_000 + "]" * 50_000 + "}", "", "not a manifest"),
        (b"\xff{}", "", "not a manifest"),
        (b" " * (5 << 20), "", "larger than"),
    ],
)
def test_what_is_ambiguous_or_too_much_is_refused(raw: str | bytes, content_type: str, words: str) -> None:
    with pytest.raises(InvalidDocument, match=words):
        documents.read(raw.encode() if isinstance(raw, str) else raw, content_type)
