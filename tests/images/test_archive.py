"""save, load and import, with archives of all sorts."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import threading
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from wherry.errors import EngineError, InvalidRequest, NotFound
from wherry.images.archive import Loader

pytestmark = pytest.mark.root
Experiment = Callable[..., None]
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def nobody(ident: str) -> list[Any]:
    return []


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {item.name: opened.extractfile(item).read() for item in opened if item.isfile()}  # type: ignore[union-attr]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_archive_of_docker_is_loaded_in_any_compression(compression: str, experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 2_000_000}, {"b": b"2"})
        records = await lab.load(COMPRESSIONS[compression](made.docker_archive("x:1", "x:2")))
        assert [record["stream"] for record in records if "stream" in record] == ["Loaded image: x:1\n", "Loaded image: x:2\n"]
        image = lab.images.resolve("x:2")
        assert image.id == made.id
        assert image.size_bytes == 2_000_001
        assert image.repo_tags == ("x:1", "x:2")

    experiment(body)


def test_what_is_saved_is_an_oci_layout_with_the_files_of_docker(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 100_000}, {"b": b"2"})
        await lab.load(made.docker_archive("x/y:1"))
        saved = await lab.save("x/y")
        files = members(saved)
        layers = [f"blobs/sha256/{item[7:]}" for item in json.loads(made.config)["rootfs"]["diff_ids"]]
        assert [files[name] for name in layers] == made.tars
        assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        assert json.loads(files["repositories"]) == {"x/y": {"1": layers[-1][13:]}}
        [item] = json.loads(files["manifest.json"])
        assert (item["Config"], item["RepoTags"], item["Layers"]) == (f"blobs/sha256/{made.id[7:]}", ["x/y:1"], layers)
        [entry] = json.loads(files["index.json"])["manifests"]
        assert entry["annotations"] == {"io.containerd.image.name": "docker.io/x/y:1", "org.opencontainers.image.ref.name": "1"}
        assert files[f"blobs/sha256/{entry['digest'][7:]}"]

        by_id = members(await lab.save(made.id))
        assert json.loads(by_id["manifest.json"])[0]["RepoTags"] is None
        assert "repositories" not in by_id

        lab.images.remove("x/y:1", in_use=nobody)
        assert lab.is_empty()
        assert (await lab.load(saved))[-1] == {"stream": "Loaded image: x/y:1\n"}
        assert await lab.save("x/y:1") == saved
        lab.images.remove("x/y:1", in_use=nobody)
        assert (await lab.load(await repacked(files, without=("manifest.json", "repositories"))))[-1] == {"stream": "Loaded image: x/y:1\n"}
        assert lab.images.resolve("x/y:1").id == made.id

    async def repacked(files: dict[str, bytes], without: tuple[str, ...]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in files.items():
                if name not in without:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return out.getvalue()

    experiment(body)


def test_a_pulled_layer_is_saved_as_the_tar_it_was(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 100_000})
        fake.add(made)
        await lab.pull(f"{fake.host}/x/y:1")
        assert made.tars[0] in members(await lab.save(f"{fake.host}/x/y:1")).values()

    experiment(body)


def test_an_archive_without_a_name_is_loaded_by_its_id(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        assert (await lab.load(made.docker_archive(), quiet=True)) == [{"stream": f"Loaded image ID: {made.id}\n"}]

    experiment(body)


def test_a_name_that_moves_is_told(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        old, new = make_image({"a": b"1"}), make_image({"a": b"2"})
        await lab.load(old.docker_archive("x:1"))
        records = await lab.load(new.docker_archive("x:1"), quiet=True)
        moved = f"The image x:1 already exists, renaming the old one with ID {old.id} to empty string\n"
        assert [record["stream"] for record in records] == [moved, "Loaded image: x:1\n"]
        assert lab.images.get(old.id).repo_tags == ()

    experiment(body)


def test_layers_may_be_links_to_each_other(experiment: Experiment, make_image: Any, make_tar: Callable[..., bytes]) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"}, {"a": b"1"})
        item = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}
        files = {"one/layer.tar": made.tars[0], "c.json": made.config, "manifest.json": json.dumps([item]).encode()}
        await lab.load(make_tar(files, {"two/layer.tar": "../one/layer.tar"}))
        assert lab.images.resolve("x:1").id == made.id

    experiment(body)


def _manifest(**fields: Any) -> dict[str, bytes]:
    item = {"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["0/layer.tar"], **fields}
    return {"manifest.json": json.dumps([item]).encode()}


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "another layer": ({"0/layer.tar": b"\0" * 10240}, "invalid archive"),
    "a layer that is no tar": ({"0/layer.tar": b"x" * 5000}, "tar"),
    "a missing layer": (_manifest(Layers=["nope"]), "no file 'nope'"),
    "a layer from outside": (_manifest(Layers=["../../../etc/passwd"]), "no file"),
    "an absolute layer": (_manifest(Layers=["/etc/passwd"]), "no file"),
    "too few layers": (_manifest(Layers=[]), "layers length mismatch"),
    "a config from outside": (_manifest(Config="../../etc/passwd"), "no file"),
    "a config of numbers": (_manifest(Config=7), "Config, RepoTags or Layers"),
    "a bad tag": (_manifest(RepoTags=["UPPER"]), "must be lowercase"),
    "no JSON": ({"manifest.json": b"{"}, "invalid manifest.json: unexpected end of JSON input"),
    "deep JSON": ({"manifest.json": b"[" * 100_000}, "invalid manifest.json"),
    "no list": ({"manifest.json": b"{}"}, "not a list"),
    "a list of null": ({"manifest.json": b"[null]"}, "not a list"),
    "null": ({"manifest.json": b"null"}, r"^invalid manifest, manifest cannot be null \(but can be \[\]\)$"),
    "a config that is no JSON": ({"config.json": b"<html>"}, "JSON: invalid character '<' looking for beginning of value"),
    "a config without rootfs": ({"config.json": b'{"architecture":"a","os":"b"}'}, "^invalid image JSON, no RootFS key$"),
    "an image of Windows": (
        {"config.json": b'{"os":"windows","rootfs":{"type":"layers","diff_ids":[]}}', **_manifest(Layers=[])},
        "^cannot load windows image on linux$",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_archive_is_refused_and_leaves_nothing(fault: str, experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        changes, message = BAD[fault]
        made = make_image({"a": b"1" * 3_000_000})
        with pytest.raises(InvalidRequest, match=message):
            await lab.load(made.docker_archive("x:1", **changes))
        assert lab.is_empty()

    experiment(body)


def test_a_list_of_no_images_loads_none(experiment: Experiment, make_tar: Callable[..., bytes]) -> None:
    async def body(lab: Any, fake: Any) -> None:
        assert await lab.load(make_tar({"manifest.json": b"[]"}), quiet=True) == []
        with pytest.raises(InvalidRequest, match="no images in it"):
            await lab.load(make_tar({"oci-layout": b"{}", "index.json": b'{"schemaVersion":2,"manifests":[]}'}))

    experiment(body)


def test_an_image_that_says_no_architecture_is_loaded(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        config = {key: value for key, value in json.loads(made.config).items() if key not in ("architecture", "os")}
        await lab.load(made.docker_archive("x:1", **{"config.json": json.dumps(config).encode()}))
        found = lab.images.resolve("x:1").config
        assert (found.architecture, found.platform.os) == ("", "linux")

    experiment(body)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 100, b"x" * 5000, gzip.compress(b"x" * 5000)[:-20]], ids=["empty", "short", "noise", "cut gzip"]
)
def test_what_is_no_archive_is_refused(data: bytes, experiment: Experiment) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with pytest.raises(EngineError):
            await lab.load(data)
        assert lab.is_empty()

    experiment(body)


def test_an_archive_that_is_cut_off_leaves_nothing(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        archive = make_image({"a": b"1" * 3_000_000}).docker_archive("x:1")
        with pytest.raises(InvalidRequest, match="unexpected EOF"):
            await lab.load(archive[:2_000_000])
        assert lab.is_empty()

    experiment(body)


def test_saving_what_does_not_exist_fails_at_once(experiment: Experiment) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with pytest.raises(NotFound, match="No such image: nope"):
            lab.images.save(["nope"])

    experiment(body)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_root_file_system_is_imported(compression: str, experiment: Experiment, make_tar: Callable[..., bytes]) -> None:
    async def body(lab: Any, fake: Any) -> None:
        data = COMPRESSIONS[compression](make_tar({"bin/sh": b"#!", "etc/passwd": b"root"}))
        image = await lab.images.import_(pieces(data), name="base:1", changes=['CMD ["sh"]', "ENV A=b"])
        assert image.repo_tags == ("base:1",)
        assert image.config.settings.cmd == ["sh"]
        assert image.config.comment == "Imported from -"
        assert image.size_bytes == 6
        names = members(members(await lab.save("base:1"))[f"blobs/sha256/{image.diff_ids[0].hex}"])
        assert names == {"bin/sh": b"#!", "etc/passwd": b"root"}

    async def pieces(data: bytes) -> Any:
        yield data

    experiment(body)


class Interrupted(io.BytesIO):
    """An archive; ``meanwhile`` is called when what lies a MiB beyond its layer is wanted, which is stored by then."""

    def __init__(self, made: Any, meanwhile: Callable[[], object], *, whole: bool) -> None:
        archive = made.docker_archive("x:1", unused=bytes(2 << 20))
        self._left = archive.index(made.tars[0]) + len(made.tars[0]) + (1 << 20)
        self._meanwhile = meanwhile
        super().__init__(archive if whole else archive[: self._left + 100])

    def read(self, size: int | None = -1) -> bytes:
        if not self._left:
            self._meanwhile()
            self._left = 1 << 30
        data = super().read(min(size or 0, self._left))
        self._left -= len(data)
        return data


@pytest.mark.parametrize("whole", [True, False])
def test_loads_at_once_of_the_same_layer_leave_what_images_need(whole: bool, experiment: Experiment, make_image: Any) -> None:
    """The first stores its blob, the second finds it there; then the first ends, or it goes on when the second has ended."""

    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1" * 2_000_000})
        images = lab.images
        loader = Loader(
            catalog=images.catalog,
            content=lab.content,
            layers=images.layers,
            forget=images.forget_layer,
            needed=lambda: images.roots().content,
        )
        stored, go = threading.Event(), threading.Event()

        def load(meanwhile: Callable[[], object], *, whole: bool = True) -> None:
            loader.load(Interrupted(made, meanwhile, whole=whole), lambda record: None)

        if whole:
            first = threading.Thread(target=load, args=(lambda: (stored.set(), go.wait(60)),))
            first.start()
            stored.wait(60)
            load(lambda: (go.set(), first.join()))
        else:
            with pytest.raises(ValueError, match="EOF"):
                load(lambda: load(stored.set), whole=False)
        assert images.resolve("x:1").id == made.id
        assert set(lab.content.digests()) == images.roots().content

    experiment(body)


def test_a_bad_import_leaves_nothing(experiment: Experiment, make_tar: Callable[..., bytes]) -> None:
    async def body(lab: Any, fake: Any) -> None:
        for data, changes, message in (
            (make_tar({"a": b"1" * 9000})[:4000], [], "EOF"),
            (make_tar({"a": b"1"}), ["FROM x"], "FROM is not a valid change command"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                await lab.images.import_(pieces(data), changes=changes)
            assert lab.is_empty()

    async def pieces(data: bytes) -> Any:
        yield data

    experiment(body)
