"""Manifest lists on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wherry.cli.flags import Failure
from wherry.cli.manifest_lists import Entry, ManifestLists, list_document
from wherry.cli.registry import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from wherry.spec.reference import parse

LIST, ONE = parse("localhost:5000/x/list:1"), parse("busybox:1")
ENTRY = Entry(str(ONE), DOCKER_MANIFEST, b'{"schemaVersion": 2}', {"os": "linux", "architecture": "arm", "variant": ""})


def test_entries_lie_where_dockers_command_line_has_them(tmp_path: Path) -> None:
    lists = ManifestLists(str(tmp_path))
    lists.put(LIST, ONE, ENTRY)
    path = tmp_path / "manifests" / "localhost-5000_x_list-1" / "docker.io_library_busybox-1"
    assert json.loads(path.read_text()) == {
        "Ref": "docker.io/library/busybox:1",
        "Descriptor": {
            "mediaType": DOCKER_MANIFEST,
            "digest": ENTRY.digest,
            "size": 20,
            "platform": {"architecture": "arm", "os": "linux"},
        },
        "Raw": "eyJzY2hlbWFWZXJzaW9uIjogMn0=",
        "SchemaV2Manifest": {"schemaVersion": 2},
    }
    [entry] = lists.entries(LIST)
    assert (entry.ref, entry.raw, entry.platform) == (str(ONE), ENTRY.raw, {"architecture": "arm", "os": "linux"})
    assert lists.remove(LIST)
    assert not lists.remove(LIST)
    assert lists.entries(LIST) == []


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    lists = ManifestLists(str(tmp_path))
    lists.put(LIST, ONE, ENTRY)
    path = tmp_path / "manifests" / "localhost-5000_x_list-1" / "docker.io_library_busybox-1"
    path.write_text(path.read_text().replace("eyJz", "eyJa"))
    with pytest.raises(Failure, match="its bytes are not those of its digest"):
        lists.entries(LIST)
    path.write_text("{}")
    with pytest.raises(Failure, match="not a manifest"):
        lists.entry(LIST, ONE)


def test_a_list_of_oci_manifests_is_an_oci_index() -> None:
    media_type, body = list_document([Entry("x", OCI_MANIFEST, b"{}", {"os": "linux", "architecture": "amd64"})])
    assert media_type == OCI_INDEX
    assert body.startswith(b'{\n   "schemaVersion": 2,\n   "mediaType": "application/vnd.oci.image.index.v1+json",\n   "manifests": [\n')
