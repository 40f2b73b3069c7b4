"""Push to and pull from Debian's docker-registry."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from aiohttp import web
from tests.images.conftest import digest

from wherry.errors import Internal
from wherry.images.push import manifest
from wherry.spec.digest import Digest, sha256
from wherry.spec.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def get(url: str) -> tuple[bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read(), dict(response.headers)


def test_an_image_goes_to_a_real_registry_and_comes_back_the_same(experiment: Experiment, make_image: Any, real_registry: str) -> None:
    repository = f"{real_registry}/t/{uuid.uuid4().hex}"

    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": bytes(range(256)) * 5000}, {"b": b"2"}, {"dense": os.urandom(2 << 20)})
        lab.loaded(made, f"{repository}:1")
        records = [record async for record in lab.images.registries.push(f"{repository}:1")]
        shorts = [layer[7:19] for layer in json.loads(made.config)["rootfs"]["diff_ids"]]
        assert records[0] == {"status": f"The push refers to repository [{repository}]"}
        assert records[1:4] == [{"status": "Preparing", "progressDetail": {}, "id": ident} for ident in reversed(shorts)]
        for ident in shorts:
            assert {"status": "Pushed", "progressDetail": {}, "id": ident} in records
        raw, headers = get(f"http://{real_registry}/v2/{repository.partition('/')[2]}/manifests/1")
        assert records[-2] == {"status": f"1: digest: {sha256(raw)} size: {len(raw)}"}
        assert records[-1] == {"progressDetail": {}, "aux": {"Tag": "1", "Digest": sha256(raw), "Size": len(raw)}}
        *compressed, dense = json.loads(raw)["layers"]
        assert {layer["mediaType"] for layer in compressed} == {DOCKER_LAYER_GZIP}
        assert dense == made.described(made.tars[2], DOCKER_LAYER)
        assert headers["Content-Type"] == "application/vnd.docker.distribution.manifest.v2+json"
        assert lab.images.resolve(f"{repository}:1").repo_digests == (f"{repository}@{sha256(raw)}",)

        again = [record["status"] async for record in lab.images.registries.push(f"{repository}:1") if "status" in record]
        assert again.count("Layer already exists") == 3

        lab.images.tag(f"{repository}:1", f"{repository}-beside:2")
        beside = [record["status"] async for record in lab.images.registries.push(f"{repository}-beside:2") if "status" in record]
        assert beside.count(f"Mounted from {repository.partition('/')[2]}") == 3

        for name in (f"{repository}:1", f"{repository}-beside:2"):
            lab.images.remove(name, in_use=lambda ident: [])
        assert lab.is_empty()
        await lab.pull(f"{repository}:1")
        assert lab.images.resolve(f"{repository}:1").id == made.id
        stored = lab.images.resolve(f"{repository}:1")
        assert [lab.images.layers.tar_size(diff_id) for diff_id in stored.diff_ids] == [len(tar) for tar in made.tars]

    experiment(body)


@pytest.mark.parametrize("layers", [1, 2], ids=["the image", "its base"])
def test_layers_that_were_here_before_are_mounted_from_where_they_were_pulled_again(
    layers: int, experiment: Experiment, make_image: Any
) -> None:
    """As Docker does; they are not sent, and the blobs stay the same."""

    async def body(lab: Any, fake: Any) -> None:
        files: list[dict[str, bytes]] = [{"a": b"1"}, {"b": b"2"}]
        fake.add(make_image(files[0]), "base")
        fake.add(made := make_image(*files[:layers]), "1")
        other = fake.host.replace("127.0.0.1", "localhost")  # another registry, as far as names go
        mounted: list[tuple[str, str]] = []

        async def blobs(request: web.Request) -> web.Response:
            if request.path.endswith(made.id):
                return web.Response(body=made.config)
            if request.method != "POST" or "mount" not in request.query:
                return web.json_response({"errors": [{"code": "BLOB_UNKNOWN"}]}, status=404)
            mounted.append((request.query["mount"], request.query["from"]))
            return web.Response(status=201)

        async def manifests(request: web.Request) -> web.Response:
            sent.append(json.loads(await request.read())["layers"])
            return web.Response(status=201)

        sent: list[Any] = []
        fake.answers |= {"/x/again/blobs/": blobs, "/x/again/manifests/": manifests}
        await lab.pull(f"{fake.host}/x/first:base")
        await lab.pull(f"{other}/x/second:1")
        lab.images.tag(f"{other}/x/second:1", f"{other}/x/again:1")
        records = [record["status"] async for record in lab.images.registries.push(f"{other}/x/again:1") if "status" in record]
        assert records.count("Mounted from x/second") == layers
        assert sorted(mounted) == sorted((digest(blob), "x/second") for blob in made.blobs)
        assert sent == [made.document["layers"]]

    experiment(body)


@pytest.mark.parametrize("files", [{"dense": os.urandom(2 << 20)}, {"text": b"1" * 3000}], ids=("plain", "gzip"))
def test_a_damaged_layer_is_named_and_not_kept_by_the_registry(
    experiment: Experiment, make_image: Any, real_registry: str, files: dict[str, bytes]
) -> None:
    repository = f"{real_registry}/t/{uuid.uuid4().hex}"

    async def body(lab: Any, fake: Any) -> None:
        made = make_image(files)
        lab.loaded(made, f"{repository}:1")
        with open(lab.content.path(sha256(made.tars[0])), "r+b") as file:
            file.seek(1024)
            file.write(b"damage")
        with pytest.raises(Internal, match=f"layer {sha256(made.tars[0])} can't be read back"):
            [record async for record in lab.images.registries.push(f"{repository}:1")]
        with pytest.raises(urllib.error.HTTPError):
            get(f"http://{real_registry}/v2/{repository.partition('/')[2]}/blobs/{sha256(made.tars[0])}")

    experiment(body)


def test_a_registry_that_takes_no_plain_layer_gets_it_compressed(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"text": b"1" * 3000}, {"dense": os.urandom(2 << 20)})
        sent: list[str] = []

        async def uploads(request: web.Request) -> web.Response:
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": "/v2/x/y/blobs/uploads/1"})
            async for _ in request.content.iter_any():
                pass
            sent.append(request.query.get("digest", ""))
            return web.Response(status=201 if request.method == "PUT" else 202, headers={"Location": "/v2/x/y/blobs/uploads/1"})

        async def manifests(request: web.Request) -> web.Response:
            kinds = [layer["mediaType"] for layer in json.loads(await request.read())["layers"]]
            asked.append(kinds)
            return web.json_response({"errors": [{"code": "MANIFEST_INVALID"}]}, status=400 if DOCKER_LAYER in kinds else 201)

        asked: list[list[str]] = []
        fake.answers |= {"/uploads/": uploads, "/manifests/": manifests}
        lab.loaded(made, f"{fake.host}/x/y:1", f"{fake.host}/x/y:2")
        assert [record["aux"]["Tag"] async for record in lab.images.registries.push(f"{fake.host}/x/y") if "aux" in record] == ["1", "2"]
        assert asked == [[DOCKER_LAYER_GZIP, DOCKER_LAYER], *[[DOCKER_LAYER_GZIP] * 2] * 2]  # the second time without trying
        assert digest(made.tars[1]) in sent

    experiment(body)


def test_a_registry_that_is_not_there_is_named(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        lab.loaded(make_image({"a": b"1"}), "127.0.0.1:1/x:1")
        with pytest.raises(Internal, match="connection refused"):
            [record async for record in lab.images.registries.push("127.0.0.1:1/x:1")]

    experiment(body)


def test_the_manifest_has_the_bytes_that_docker_writes() -> None:
    config = Descriptor(media_type=DOCKER_CONFIG, size=1540, digest=Digest("sha256:" + "f" * 64))
    layer = Descriptor(media_type=DOCKER_LAYER_GZIP, size=87, digest=Digest("sha256:" + "a" * 64))
    raw, media_type = manifest(config, [layer])
    assert media_type == DOCKER_MANIFEST
    assert raw.decode() == (
        '{\n   "schemaVersion": 2,\n   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",\n   "config": {\n'
        '      "mediaType": "application/vnd.docker.container.image.v1+json",\n      "size": 1540,\n'
        f'      "digest": "sha256:{"f" * 64}"\n   }},\n   "layers": [\n      {{\n'
        '         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",\n         "size": 87,\n'
        f'         "digest": "sha256:{"a" * 64}"\n      }}\n   ]\n}}'
    )


def zstd_image(fake: Any, made: Any) -> list[bytes]:
    """``made`` under ``fake``'s tag ``zstd``, its last layer in that compression, as BuildKit pushes it; the layers' blobs."""
    blobs = [*made.blobs[:-1], zstandard.ZstdCompressor().compress(made.tars[-1])]
    kinds = [OCI_LAYER_GZIP] * (len(blobs) - 1) + [OCI_LAYER_ZSTD]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": made.described(made.config, OCI_CONFIG),
        "layers": [made.described(blob, kind) for blob, kind in zip(blobs, kinds, strict=True)],
    }
    fake.add_manifest("zstd", json.dumps(document).encode(), OCI_MANIFEST)
    fake.blobs |= {digest(blob): blob for blob in [made.config, *blobs]}
    return blobs


@pytest.mark.parametrize("takes_zstd", [True, False])
def test_a_layer_of_zstd_stays_what_it_is_where_the_registry_has_it(takes_zstd: bool, experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"}, {"b": b"2" * 5000})
        blobs = zstd_image(fake, made)
        sent: list[tuple[str, str, list[tuple[str, str]]]] = []
        uploads: list[str] = []

        async def again(request: web.Request) -> web.Response:
            if request.path.endswith(made.id):
                return web.Response(body=made.config)
            if request.method == "HEAD":
                return web.json_response({"errors": [{"code": "BLOB_UNKNOWN"}]}, status=404)
            if "mount" in request.query:
                return web.Response(status=201)
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": "/v2/x/again/blobs/uploads/1"})
            await request.read()
            uploads.append(request.query.get("digest", ""))
            return web.Response(status=201 if request.method == "PUT" else 202, headers={"Location": "/v2/x/again/blobs/uploads/1"})

        async def manifests(request: web.Request) -> web.Response:
            document = json.loads(await request.read())
            layers = [(layer["mediaType"], layer["digest"]) for layer in document["layers"]]
            sent.append((request.headers["Content-Type"], document["config"]["mediaType"], layers))
            return web.json_response({}, status=201 if takes_zstd or request.headers["Content-Type"] == DOCKER_MANIFEST else 400)

        fake.answers |= {"/x/again/blobs/": again, "/x/again/manifests/": manifests}
        await lab.pull(f"{fake.host}/x/first:zstd")
        lab.images.tag(f"{fake.host}/x/first:zstd", f"{fake.host}/x/again:1")
        [record async for record in lab.images.registries.push(f"{fake.host}/x/again:1")]
        names = [digest(blob) for blob in blobs]
        assert sent[0] == (OCI_MANIFEST, OCI_CONFIG, [(OCI_LAYER_GZIP, names[0]), (OCI_LAYER_ZSTD, names[1])])
        if takes_zstd:
            assert len(sent) == 1
            assert not uploads
        else:
            (packed,) = {name for name in uploads if name}
            assert sent[1:] == [(DOCKER_MANIFEST, DOCKER_CONFIG, [(DOCKER_LAYER_GZIP, names[0]), (DOCKER_LAYER_GZIP, packed)])]

    experiment(body)
