import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.spec import image
from wherry.spec.digest import sha256
from wherry.spec.image import Config, Descriptor, Healthcheck, History, ImageConfig, Index, InvalidDocument, Manifest, RootFS

D = sha256(b"layer")
LAYER = {"mediaType": image.OCI_LAYER_GZIP, "digest": D, "size": 5}
CONFIG = {"mediaType": image.OCI_CONFIG, "digest": D, "size": 7}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": image.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": image.OCI_INDEX,
    "manifests": [
        {"mediaType": image.OCI_MANIFEST, "digest": D, "size": 5, "platform": {"os": "linux", "architecture": "amd64", "os.version": "5"}}
    ],
}
IMAGE: dict[str, Any] = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [D]}}


def raw(document: object, **changes: object) -> bytes:
    return json.dumps({**document, **changes} if isinstance(document, dict) else document).encode()


def test_a_manifest_is_read_with_its_layers() -> None:
    manifest = image.decode_manifest(raw(MANIFEST), image.OCI_MANIFEST)
    assert manifest.layers == [Descriptor(media_type=image.OCI_LAYER_GZIP, digest=D, size=5)]
    assert type(manifest.layers[0].digest).__name__ == "Digest"


def test_an_index_is_read_with_its_platforms() -> None:
    index = image.decode(raw(INDEX), image.OCI_INDEX + "; charset=utf-8")
    assert isinstance(index, Index)
    platform = index.manifests[0].platform
    assert platform is not None
    assert (platform.os, platform.architecture, platform.os_version) == ("linux", "amd64", "5")


def test_a_document_without_media_type_is_told_by_its_fields() -> None:
    assert isinstance(image.decode(raw({k: v for k, v in INDEX.items() if k != "mediaType"})), Index)
    assert isinstance(image.decode(raw({k: v for k, v in MANIFEST.items() if k != "mediaType"}), "application/json"), Manifest)


@pytest.mark.parametrize(
    "document",
    [
        raw(MANIFEST, manifests=[]),
        raw(MANIFEST, layers=None),
        raw(MANIFEST, layers=[None]),
        raw(MANIFEST, config=None),
        raw(MANIFEST, layers=[{**LAYER, "size": -1}]),
        raw(MANIFEST, layers=[{**LAYER, "size": 2**63}]),
        raw(MANIFEST, layers=[{**LAYER, "digest": "sha256:../../../etc/passwd"}]),
        raw(MANIFEST, layers=[LAYER] * 5000),
        raw(MANIFEST, Layers=[]),
        raw(MANIFEST, mediaType=image.OCI_INDEX),
        raw(MANIFEST, mediaType=7),
        raw(MANIFEST, mediaType="text/html"),
        raw(MANIFEST, schemaVersion=1),
        raw(MANIFEST, schemaVersion=3),
        raw(INDEX, manifests={}),
        raw([]),
        raw(7),
        b"",
        b"not json",
        b'{"layers":[],"layers":[]}',
        b'{"schemaVersion": NaN}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b" " * (image.MANIFEST_LIMIT + 1),
    ],
)
def test_a_hostile_manifest_is_refused_by_our_own_error(document: bytes) -> None:
    with pytest.raises(InvalidDocument):
        image.decode(document, image.OCI_MANIFEST)


def test_a_manifest_sent_as_an_index_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="was sent as"):
        image.decode(raw(MANIFEST), image.OCI_INDEX)
    with pytest.raises(InvalidDocument, match="index where a manifest"):
        image.decode_manifest(raw(INDEX))
    with pytest.raises(InvalidDocument, match="schema 1"):
        image.decode(b'{"schemaVersion":1,"name":"x"}')


def test_a_docker_config_is_read_with_its_nulls_and_unknown_fields() -> None:
    document = raw(
        IMAGE,
        config={
            "Cmd": "echo",
            "Env": None,
            "Labels": None,
            "User": None,
            "Entrypoint": ["/bin/sh", "-c"],
            "ExposedPorts": {"80/tcp": None, "81/tcp": {}},
            "OnBuild": ["RUN x"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5},
        },
        history=[{"created_by": "RUN", "empty_layer": True, "created": None}],
        docker_version="28.5.2",
        Size=7,
        created="2026-01-01T00:00:00.123456789Z",
    )
    config = image.decode_config(document)
    assert config.settings.cmd == ["echo"]
    assert config.settings.env is None
    assert config.settings.exposed_ports == {"80/tcp": {}, "81/tcp": {}}
    assert config.settings.healthcheck == Healthcheck(test=["CMD", "true"], interval=5)
    assert config.history == [History(created_by="RUN", empty_layer=True)]
    assert config.created == "2026-01-01T00:00:00.123456789Z"


@pytest.mark.parametrize(
    "document",
    [
        raw(IMAGE, rootfs=None),
        raw(IMAGE, rootfs={"type": "layers", "diff_ids": None}),
        raw(IMAGE, rootfs={"type": "other", "diff_ids": []}),
        raw(IMAGE, rootfs={"type": "layers", "diff_ids": ["x"]}),
        raw(IMAGE, rootfs={"type": "layers", "diff_ids": [D] * 1000}),
        raw(IMAGE, RootFS={}),
        raw(IMAGE, config={"Env": {"a": "b"}}),
        raw(IMAGE, config=[]),
        b"{}",
    ],
)
def test_a_broken_config_is_refused_by_our_own_error(document: bytes) -> None:
    with pytest.raises(InvalidDocument):
        image.decode_config(document)


def test_encoding_is_the_same_bytes_for_the_same_value_and_reads_back() -> None:
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        rootfs=RootFS(diff_ids=[D]),
        config=Config(env=["A=b"], labels={"z": "1", "a": "2"}, args_escaped=True, stop_timeout=0),
    )
    expected = (
        b'{"architecture":"amd64","config":{"ArgsEscaped":true,"Env":["A=b"],"Labels":{"a":"2","z":"1"},"StopTimeout":0},'
        b'"os":"linux","rootfs":{"diff_ids":["' + D.encode() + b'"],"type":"layers"}}'
    )
    assert image.encode(config) == expected
    assert image.decode_config(expected) == config
    manifest = image.decode_manifest(raw(MANIFEST))
    assert image.decode_manifest(image.encode(manifest)) == manifest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*MANIFEST, *INDEX, *IMAGE, "history", "config"]), JSON), st.sampled_from(["", image.OCI_MANIFEST]))
def test_only_our_own_error_escapes(changes: dict[str, Any], content_type: str) -> None:
    for base in (MANIFEST, INDEX):
        try:
            image.decode(raw(base, **changes), content_type)
        except InvalidDocument:
            pass
    try:
        config = image.decode_config(raw(IMAGE, **changes))
    except InvalidDocument:
        return
    assert image.decode_config(image.encode(config)) == config
