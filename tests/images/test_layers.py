"""Layers in and out again, and what is kept of them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

import pytest

from wherry.images.layers import LayerDamaged, Layers, Needed
from wherry.spec.digest import Digest, chain_ids, sha256
from wherry.store.garbage import UNNAMED
from wherry.store.layer import DigestMismatch

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def test_a_compressed_layer_is_written_back_as_its_tar_and_damage_is_told(experiment: Experiment, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        layers = lab.images.layers
        tar = make_tar({"a": b"1" * 9000})
        blob = gzip.compress(tar)
        diff_id = sha256(tar)
        layers.unpack(diff_id, None, diff_id, io.BytesIO(blob))
        lab.content.put(blob)
        layers.remember(diff_id, digest=sha256(blob), size=len(blob), media_type="x", place="host/x")
        out = io.BytesIO()
        assert layers.write_tar(diff_id, diff_id, out) == len(tar)
        assert out.getvalue() == tar
        assert layers.blob(diff_id).places == ("host/x",)
        with open(lab.content.path(sha256(blob)), "wb") as file:
            file.write(gzip.compress(make_tar({"a": b"2"})))
        with pytest.raises(LayerDamaged):
            layers.write_tar(diff_id, diff_id, io.BytesIO())

    experiment(body)


def test_bytes_of_another_layer_become_no_snapshot(experiment: Experiment, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        wanted = sha256(b"something else")
        with pytest.raises(DigestMismatch):
            lab.images.layers.unpack(wanted, None, wanted, io.BytesIO(make_tar({"a": b"1"})))
        assert lab.is_empty()

    experiment(body)


def nobody() -> Needed:
    return Needed(chains=())


def test_what_is_held_is_not_discarded(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        layers = lab.images.layers
        image = lab.loaded(make_image({"a": b"1"}, {"b": b"2"}), "x:1")
        chain = list(reversed(image.chain_ids))
        with layers.hold([image.chain_ids[1]]):
            assert layers.discard(chain, nobody, image.diff_ids) == []
        with layers.hold([image.chain_ids[0]]):
            assert layers.discard(chain, nobody, image.diff_ids) == [image.chain_ids[1]]
        assert [info.name for info in lab.snapshotter.items()] == [image.chain_ids[0]]
        assert [layers.exists(Digest(name)) for name in image.chain_ids] == [True, False]

    experiment(body)


def test_what_was_held_since_somebody_asked_who_needs_it_is_not_discarded(experiment: Experiment, make_image: Any) -> None:
    """An image is made of a layer between the look at all images and the removal of the layer: the image would have none."""

    async def body(lab: Any, fake: Any) -> None:
        layers = lab.images.layers
        image = lab.loaded(make_image({"a": b"1"}), "x:1")

        def needed() -> Needed:
            with layers.hold(image.chain_ids):
                return Needed(chains=())

        assert layers.discard(image.chain_ids, needed, image.diff_ids) == []
        assert layers.exists(image.chain_ids[0])
        assert layers.discard(image.chain_ids, lambda: Needed(chains=set(image.chain_ids))) == []
        assert layers.discard(image.chain_ids, nobody) == list(image.chain_ids)

    experiment(body)


def test_who_keeps_a_layer_only_because_it_is_held_says_so(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        told: list[str] = []
        layers = Layers(lab.records, lab.content, lab.snapshotter, put_off=lambda: told.append("later"))
        image = lab.loaded(make_image({"a": b"1"}), "x:1")
        with layers.hold(image.chain_ids):
            assert layers.discard(image.chain_ids, lambda: Needed(chains=image.chain_ids)) == []
            assert told == []
            assert layers.discard(image.chain_ids, nobody) == []
        assert told == ["later"]
        with layers.hold([UNNAMED]):
            assert layers.discard(image.chain_ids, nobody, image.diff_ids) == []
        assert told == ["later", "later"]

    experiment(body)


def test_an_import_keeps_nobody_from_removing_images_before_its_tar_is_whole(experiment: Experiment, make_tar: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        layers = lab.images.layers
        held: list[str] = []
        tar = io.BytesIO(make_tar({"a": b"1" * 2_000_000}))

        class Source(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                data = tar.read(size)
                assert held == [] or not data
                return data

        diff_id = layers.unpack_tree(Source(), held.append)
        assert set(held) == {UNNAMED}
        assert layers.exists(diff_id)

    experiment(body)


def test_a_blob_stays_while_a_snapshot_made_from_it_does(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        fake.add(make_image({"a": b"1"}))
        await lab.pull(f"{fake.host}/x/y:1")
        image = lab.images.resolve(f"{fake.host}/x/y:1")
        layers = lab.images.layers
        if layers.keeps_tars:
            assert list(lab.content.digests()) == [image.id]
            return
        layers.discard([], nobody, image.diff_ids)
        blob = Digest(layers.blob(image.diff_ids[0]).digest)
        assert lab.content.has(blob)
        assert {str(blob), str(image.diff_ids[0])} <= layers.roots(set())
        layers.discard(list(chain_ids(image.diff_ids)), nobody, image.diff_ids)
        assert not lab.content.has(blob)

    experiment(body)
