"""Archives in the layouts of other tools, recorded here in small: what each must become."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from wherry.errors import EngineError, InvalidRequest
from wherry.spec.digest import sha256
from wherry.spec.image import Platform

pytestmark = pytest.mark.root
Experiment = Callable[..., None]
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI = "application/vnd.oci.image."


def described(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(sha256(data)), "size": len(data), **more}


class Layout:
    """An OCI layout in the making, as tools other than Docker write it: no manifest.json."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(self, data: bytes) -> bytes:
        self.files[f"blobs/sha256/{sha256(data).hex}"] = data
        return data

    def manifest(self, made: Any, compress: Callable[[bytes], bytes], layer_type: str, config: bytes = b"") -> bytes:
        config = self.blob(config or made.config)
        layers = [described(self.blob(compress(data)), layer_type) for data in made.tars]
        return self.blob(json.dumps({"schemaVersion": 2, "config": described(config, OCI + "config.v1+json"), "layers": layers}).encode())

    def index(self, *descriptors: dict[str, Any]) -> None:
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": list(descriptors)}).encode()


def named(manifest: bytes, **annotations: str) -> dict[str, Any]:
    return described(manifest, OCI + "manifest.v1+json", annotations={key.replace("_", "."): value for key, value in annotations.items()})


def config_for(made: Any, architecture: str) -> bytes:
    return json.dumps({**json.loads(made.config), "architecture": architecture}).encode()


def estargz(data: bytes) -> bytes:
    """Each block a gzip stream of its own, and the empty one at the end whose extra field says where a table of contents lies."""
    blocks = [gzip.compress(data[start : start + 512]) for start in range(0, len(data), 512)]
    extra = b"SG\x16\x00" + b"%016x" % len(data) + b"STARGZ"
    return b"".join(blocks) + b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra + b"\x01\0\0\xff\xff" + bytes(8)


COMPRESSIONS = {
    "plain": (bytes, OCI + "layer.v1.tar"),
    "gzip": (gzip.compress, OCI + "layer.v1.tar+gzip"),
    "estargz": (estargz, OCI + "layer.v1.tar+gzip"),
    "zstd": (zstandard.ZstdCompressor().compress, OCI + "layer.v1.tar+zstd"),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_skopeos_and_podmans_oci_archives(compression: str, experiment: Experiment, make_image: Any, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 2_000_000}, {"b": b"2"})
        layout = Layout()
        manifest = layout.manifest(made, *COMPRESSIONS[compression])
        layout.index(named(manifest, org_opencontainers_image_ref_name="localhost/x:1"))
        records = await lab.load(make_tar(layout.files))
        assert [record["stream"] for record in records if "stream" in record] == ["Loaded image: localhost/x:1\n"]
        assert lab.images.resolve("localhost/x:1").id == made.id

    experiment(body)


def test_buildxs_oci_archive_with_an_attestation(experiment: Experiment, make_image: Any, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made, other = make_image({"a": b"1"}), make_image({"b": b"2"})
        layout = Layout()
        arm = layout.manifest(other, *COMPRESSIONS["gzip"], config=config_for(other, "arm64"))
        intel = layout.manifest(made, *COMPRESSIONS["gzip"])
        proof = layout.blob(json.dumps({"schemaVersion": 2, "config": described(b"{}", "application/x"), "layers": []}).encode())
        platform = {"os": "linux", "architecture": "amd64"}
        entries = [
            described(arm, OCI + "manifest.v1+json", platform={**platform, "architecture": "arm64"}),
            described(intel, OCI + "manifest.v1+json", platform=platform),
            described(
                proof,
                OCI + "manifest.v1+json",
                platform={"os": "unknown", "architecture": "unknown"},
                annotations={"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": str(sha256(intel))},
            ),
        ]
        inner = layout.blob(json.dumps({"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": entries}).encode())
        top = described(inner, OCI + "index.v1+json")
        top["annotations"] = {
            "io.containerd.image.name": "docker.io/x/built:1",
            "org.opencontainers.image.ref.name": "1",
            "foreign": "kept",
        }
        layout.index(top)
        whole = make_tar(layout.files)
        assert (await lab.load(whole, platform=Platform(os="linux", architecture="amd64")))[-1] == {"stream": "Loaded image: x/built:1\n"}
        assert lab.images.resolve("x/built:1").id == made.id
        records = await lab.load(whole, platform=Platform(os="linux", architecture="arm64"))
        assert records[-2]["stream"].startswith("The image x/built:1 already exists, renaming the old one with ID sha256:")
        assert lab.images.resolve("x/built:1").config.architecture == "arm64"
        with pytest.raises(EngineError, match="no matching manifest for linux/s390x"):
            await lab.load(whole, platform=Platform(os="linux", architecture="s390x"))

        layout.index(*entries)  # the same, laid flat
        assert (await lab.load(make_tar(layout.files), platform=Platform(os="linux", architecture="amd64")))[-1] == {
            "stream": f"Loaded image ID: {made.id}\n"
        }

    experiment(body)


def index_of(layout: Layout, images: dict[str, Any]) -> dict[str, Any]:
    """The descriptor of an index as BuildKit makes it: an image for each architecture, and an attestation to each."""
    entries = []
    for architecture, made in images.items():
        manifest = layout.manifest(made, *COMPRESSIONS["gzip"], config=config_for(made, architecture))
        entries.append(described(manifest, OCI + "manifest.v1+json", platform={"os": "linux", "architecture": architecture}))
    for entry in entries[:]:
        proof = layout.blob(json.dumps({"schemaVersion": 2, "config": described(b"{}", "application/x"), "layers": []}).encode())
        about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": entry["digest"]}
        unknown = {"os": "unknown", "architecture": "unknown"}
        entries.append(described(proof, OCI + "manifest.v1+json", platform=unknown, annotations=about))
    inner = layout.blob(json.dumps({"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": entries}).encode())
    return described(inner, OCI + "index.v1+json")


FOREIGN = ("s390x", "ppc64le")  # tests run on neither


def test_an_image_for_other_machines_alone_loads_as_docker_loads_it(experiment: Experiment, make_image: Any, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        layout = Layout()
        top = index_of(layout, {name: make_image({name: b"1"}) for name in FOREIGN})
        layout.index({**top, "annotations": {"io.containerd.image.name": "docker.io/x/far:1"}})
        whole = make_tar(layout.files)
        assert (await lab.load(whole))[-1] == {"stream": "Loaded image: x/far:1\n"}
        assert lab.images.resolve("x/far:1").config.architecture == FOREIGN[0]
        await lab.load(whole, platform=Platform(os="linux", architecture=FOREIGN[1]))
        assert lab.images.resolve("x/far:1").config.architecture == FOREIGN[1]

    experiment(body)


def test_a_store_that_holds_one_image_of_an_index_exports_what_loads(experiment: Experiment, make_image: Any, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        layout = Layout()
        top = index_of(layout, {name: make_image({name: b"1"}) for name in FOREIGN})
        layout.index({**top, "annotations": {"io.containerd.image.name": "docker.io/x/part:1"}})
        absent = json.loads(layout.files[f"blobs/sha256/{top['digest'].removeprefix('sha256:')}"])["manifests"][0]["digest"]
        del layout.files[f"blobs/sha256/{absent.removeprefix('sha256:')}"]
        partial = make_tar(layout.files)
        assert (await lab.load(partial))[-1] == {"stream": "Loaded image: x/part:1\n"}
        assert lab.images.resolve("x/part:1").config.architecture == FOREIGN[1]
        with pytest.raises(EngineError, match=f"no matching manifest for linux/{FOREIGN[0]} in the manifest list entries"):
            await lab.load(partial, platform=Platform(os="linux", architecture=FOREIGN[0]))

    experiment(body)


def test_a_platform_is_looked_for_in_the_index_beside_the_manifest_of_docker_save(
    experiment: Experiment, make_image: Any, make_tar: Any
) -> None:
    """``manifest.json`` has room for one platform of an image; Docker's containerd store saves every one that it has."""

    async def body(lab: Any, fake: Any) -> None:
        layout = Layout()
        first, second, alone = (make_image({name: b"1"}) for name in (*FOREIGN, "alone"))
        both = index_of(layout, {FOREIGN[0]: first, FOREIGN[1]: second})
        one = index_of(layout, {FOREIGN[0]: alone})
        names = ("x/both:1", "x/alone:1")
        layout.index(
            *(
                {**top, "annotations": {"io.containerd.image.name": f"docker.io/{name}"}}
                for top, name in zip((both, one), names, strict=True)
            )
        )
        items = []
        for made, name in zip((first, alone), names, strict=True):
            config = layout.blob(config_for(made, FOREIGN[0]))
            layers = [f"blobs/sha256/{sha256(gzip.compress(data, mtime=0)).hex}" for data in made.tars]
            for data in made.tars:
                layout.blob(gzip.compress(data, mtime=0))
            items.append({"Config": f"blobs/sha256/{sha256(config).hex}", "RepoTags": [name], "Layers": layers})
        layout.files["manifest.json"] = json.dumps(items).encode()
        whole = make_tar(layout.files)

        streams = [record["stream"] for record in await lab.load(whole) if "stream" in record]
        assert streams == ["Loaded image: x/both:1\n", "Loaded image: x/alone:1\n"]
        assert lab.images.resolve("x/both:1").config.architecture == FOREIGN[0]
        records = await lab.load(whole, platform=Platform(os="linux", architecture=FOREIGN[1]))
        streams = [record["stream"] for record in records if "stream" in record]
        assert streams[-1] == "Loaded image: x/both:1\n"
        assert "Loaded image: x/alone:1\n" not in streams
        assert lab.images.resolve("x/both:1").config.architecture == FOREIGN[1]
        with pytest.raises(EngineError, match="no matching manifest for linux/arm64"):
            await lab.load(whole, platform=Platform(os="linux", architecture="arm64"))

    experiment(body)


def test_dockers_archives_before_oci_with_links_for_layers_of_two_images(experiment: Experiment, make_image: Any) -> None:
    """``docker save`` of 1.10 to 24: a directory for each layer, a symlink where an image before it has the same layer."""

    async def body(lab: Any, fake: Any) -> None:
        one, two = make_image({"a": b"1" * 2_000_000}), make_image({"a": b"1" * 2_000_000}, {"b": b"2"})
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:

            def add(name: str, data: bytes | None = None, link: str = "") -> None:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = (tarfile.DIRTYPE, "") if data is None and not link else (tarfile.REGTYPE, "")
                if link:
                    info.type, info.linkname = tarfile.SYMTYPE, link
                info.size = len(data or b"")
                archive.addfile(info, io.BytesIO(data or b""))

            for layer, data in (("1" * 64, one.tars[0]), ("2" * 64, None), ("3" * 64, two.tars[1])):
                add(layer)
                add(f"{layer}/VERSION", b"1.0")
                add(f"{layer}/json", b"{}")
                add(f"{layer}/layer.tar", data, link=f"../{'1' * 64}/layer.tar" if data is None else "")
            add("one.json", one.config)
            add("two.json", two.config)
            items = [
                {"Config": "one.json", "RepoTags": ["old:1"], "Layers": [f"{'1' * 64}/layer.tar"]},
                {"Config": "two.json", "RepoTags": ["old:2"], "Layers": [f"{'2' * 64}/layer.tar", f"{'3' * 64}/layer.tar"]},
            ]
            add("manifest.json", json.dumps(items).encode())
            add("repositories", b"{}")
        streams = [record["stream"] for record in await lab.load(out.getvalue()) if "stream" in record]
        assert streams == ["Loaded image: old:1\n", "Loaded image: old:2\n"]
        assert (lab.images.resolve("old:1").id, lab.images.resolve("old:2").id) == (one.id, two.id)

    experiment(body)


def version_one(make_tar: Any, base: bytes, top: bytes, **changes: Any) -> bytes:
    """An archive of Docker before 1.10."""
    documents = {
        "a": {"author": "x", "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD file"]}, "created": "2015-01-01T00:00:00.5Z"},
        "b": {
            "comment": "hey",
            "container_config": {"Cmd": ["/bin/sh", "-c", "echo 1"]},
            "created": "2015-02-01T00:00:00Z",
            "parent": "a" * 64,
        },
    }
    documents["b"] |= changes
    files = {"repositories": json.dumps({"old": {"1": "b" * 64, "2": "a" * 64}}).encode()}
    for letter, data in (("a", base), ("b", top)):
        document = {"id": letter * 64, "config": {"Cmd": ["sh"], "Labels": {"z": "<&>"}}, "architecture": "amd64", "os": "linux", "Size": 7}
        files[f"{letter * 64}/json"] = json.dumps({**document, **documents[letter], "docker_version": "28.0.0"}).encode()
        files[f"{letter * 64}/VERSION"] = b"1.0"
        files[f"{letter * 64}/layer.tar"] = data
    return bytes(make_tar(files))


def test_archives_of_docker_before_1_10_get_the_id_that_docker_gives_them(experiment: Experiment, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base, top = make_tar({"a": b"1"}), make_tar({"b": b"2"})
        archive = version_one(make_tar, base, gzip.compress(top))
        assert [record["stream"] for record in await lab.load(archive) if "stream" in record] == [
            "Loaded image: old:1\n",
            "Loaded image: old:2\n",
        ]
        image = lab.images.resolve("old:1")
        assert image.raw.decode() == (  # as dockerd 28 writes it
            '{"architecture":"amd64","comment":"hey","config":{"Cmd":["sh"],"Labels":{"z":"\\u003c\\u0026\\u003e"}},'
            '"container_config":{"Cmd":["/bin/sh","-c","echo 1"]},"created":"2015-02-01T00:00:00Z","docker_version":"28.0.0",'
            '"history":[{"created":"2015-01-01T00:00:00.5Z","created_by":"/bin/sh -c #(nop) ADD file","author":"x"},'
            '{"created":"2015-02-01T00:00:00Z","created_by":"/bin/sh -c echo 1","comment":"hey"}],"os":"linux",'
            f'"rootfs":{{"type":"layers","diff_ids":["{sha256(base)}","{sha256(top)}"]}}}}'
        )
        assert [line.size_bytes for line in lab.images.history("old:1")] == [1, 1]

    experiment(body)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parent": "b" * 64}, "has more than"),
        ({"parent": "../../etc"}, "is no layer's id"),
        ({"parent": "c" * 64}, "no file"),
        ({"parent": 7}, "is no layer's id"),
    ],
)
def test_hostile_chains_of_parents_are_refused(changes: dict[str, Any], message: str, experiment: Experiment, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with pytest.raises(InvalidRequest, match=message):
            await lab.load(version_one(make_tar, make_tar({"a": b"1"}), make_tar({"b": b"2"}), **changes))
        assert lab.is_empty()

    experiment(body)


def test_a_directory_of_skopeo_packed_as_a_tar(experiment: Experiment, make_image: Any, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 2_000_000}, {"b": b"2"})
        files = {f"./{sha256(data).hex}": data for data in [made.config, *made.blobs]}
        files |= {"./manifest.json": json.dumps(made.document).encode(), "./version": b"Directory Transport Version: 1.1\n"}
        assert (await lab.load(make_tar(files)))[-1] == {"stream": f"Loaded image ID: {made.id}\n"}
        files[f"./{sha256(made.blobs[1]).hex}"] = b"other"
        lab.images.remove(made.id, in_use=lambda _: [])
        with pytest.raises(InvalidRequest, match="is not the blob it is named after"):
            await lab.load(make_tar(files))
        assert lab.is_empty()

    experiment(body)
