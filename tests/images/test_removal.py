"""rmi and prune, step by step as dockerd does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from wherry.errors import Conflict, NotFound
from wherry.images.removal import ContainerUse
from wherry.spec import image as spec
from wherry.spec.digest import sha256

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def nobody(ident: str) -> Sequence[ContainerUse]:
    return []


def used_by(image: str, *, running: bool) -> Callable[[str], Sequence[ContainerUse]]:
    return lambda ident: [ContainerUse(id="c" * 64, running=running)] if ident == image else []


def test_the_last_tag_takes_the_image_and_its_own_layers_along(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base = lab.loaded(make_image({"a": b"1"}), "base:1")
        more = lab.loaded(make_image({"a": b"1"}, {"b": b"2"}), "more:1", "other:1")
        assert lab.images.remove("more:1", in_use=nobody) == [{"Untagged": "more:1"}]
        assert lab.images.remove("other:1", in_use=nobody) == [
            {"Untagged": "other:1"},
            {"Deleted": more.id},
            {"Deleted": more.chain_ids[1]},
        ]
        assert [record[0] for record in lab.events[-2:]] == ["untag", "delete"]
        assert lab.images.remove(base.id[7:19], in_use=nobody) == [
            {"Untagged": "base:1"},
            {"Deleted": base.id},
            {"Deleted": base.chain_ids[0]},
        ]
        assert lab.is_empty()
        with pytest.raises(NotFound, match="No such image: base:1"):
            lab.images.remove("base:1", in_use=nobody)

    experiment(body)


def test_the_digest_goes_with_the_last_tag_of_its_repository(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        fake.add(make_image({"a": b"1"}))
        await lab.pull(f"{fake.host}/x/y:1")
        image = lab.images.resolve(f"{fake.host}/x/y:1")
        removed = lab.images.remove(f"{fake.host}/x/y:1", in_use=nobody)
        assert removed[:3] == [{"Untagged": f"{fake.host}/x/y:1"}, {"Untagged": image.repo_digests[0]}, {"Deleted": image.id}]
        assert lab.is_empty()

    experiment(body)


def test_what_a_container_stands_on_is_kept(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}), "x:1")
        short = image.id[7:19]
        stopped, running = used_by(image.id, running=False), used_by(image.id, running=True)
        with pytest.raises(Conflict) as by_name:
            lab.images.remove("x:1", in_use=stopped)
        assert str(by_name.value) == (
            'conflict: unable to remove repository reference "x:1" (must force) - container cccccccccccc is using its referenced '
            f"image {short}"
        )
        with pytest.raises(Conflict) as by_id:
            lab.images.remove(image.id, in_use=stopped)
        assert (
            str(by_id.value)
            == f"conflict: unable to delete {short} (must be forced) - image is being used by stopped container cccccccccccc"
        )
        with pytest.raises(Conflict) as hard:
            lab.images.remove(image.id, force=True, in_use=running)
        assert (
            str(hard.value)
            == f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container cccccccccccc"
        )
        lab.images.tag("x:1", "y:1")
        with pytest.raises(Conflict, match=r"\(must be forced\) - image is referenced in multiple repositories"):
            lab.images.remove(image.id, in_use=nobody)
        assert lab.images.remove("x:1", in_use=running) == [{"Untagged": "x:1"}]
        assert lab.images.remove("y:1", force=True, in_use=running) == [{"Untagged": "y:1"}]
        assert lab.images.get(image.id).repo_tags == ()

    experiment(body)


def test_a_layer_under_a_writable_snapshot_outlives_its_image(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}), "x:1")
        lab.snapshotter.prepare("container", image.top)
        assert lab.images.remove("x:1", force=True, in_use=nobody) == [{"Untagged": "x:1"}, {"Deleted": image.id}]
        assert lab.snapshotter.exists(image.top)
        assert lab.content.has(image.diff_ids[0])
        assert (str(image.diff_ids[0]) in lab.images.roots().content) is not lab.snapshotter.keeps_tars
        again = lab.images.register(image.raw, tags=["x:1"])
        assert (again.id, bool(await lab.save("x:1"))) == (image.id, True)
        lab.snapshotter.remove("container")
        lab.images.remove("x:1", in_use=nobody)
        assert lab.is_empty()

    experiment(body)


def test_a_parent_without_a_name_goes_with_its_child(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base = lab.loaded(make_image({"a": b"1"}), "base:1")
        raw = spec.encode(spec.ImageConfig(architecture="amd64", os="linux", rootfs=base.config.rootfs, comment="child"))
        child = lab.images.register(raw, parent=base.id, tags=["child:1"])
        with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
            lab.images.remove(base.id, force=True, in_use=nobody)
        assert lab.images.remove("base:1", in_use=nobody) == [{"Untagged": "base:1"}]
        assert [image.id for image in lab.images.list()] == [child.id]
        assert {image.id for image in lab.images.list(every=True)} == {child.id, base.id}
        assert lab.images.remove("child:1", in_use=nobody) == [
            {"Untagged": "child:1"},
            {"Deleted": child.id},
            {"Deleted": base.id},
            {"Deleted": base.chain_ids[0]},
        ]
        assert lab.is_empty()

    experiment(body)


def test_prune_takes_what_has_no_tag_and_is_not_used(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        old = lab.loaded(make_image({"a": b"1" * 1000}), "x:1")
        used = lab.loaded(make_image({"a": b"2" * 500}), "x:1")
        kept = lab.loaded(make_image({"a": b"3"}), "x:1")
        removed, freed = lab.images.prune(in_use=used_by(used.id, running=False))
        assert removed == [{"Deleted": old.id}, {"Deleted": old.chain_ids[0]}]
        assert freed == 1000
        assert lab.images.prune({"dangling": ["false"], "label": ["nope"]}, in_use=nobody) == ([], 0)
        removed, freed = lab.images.prune({"dangling": ["false"]}, in_use=nobody)
        assert {item.get("Deleted") for item in removed} >= {kept.id, used.id}
        assert freed == 501
        assert lab.is_empty()

    experiment(body)


def test_a_layer_that_a_pull_counts_on_is_not_removed(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}), "x:1")
        with lab.images.layers.hold(image.chain_ids):
            assert lab.images.remove("x:1", in_use=nobody) == [{"Untagged": "x:1"}, {"Deleted": image.id}]
            assert lab.snapshotter.exists(image.top)

    experiment(body)


def test_what_the_build_cache_holds_stays_when_its_last_image_goes(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}, {"b": b"2"}, {"c": b"3"}), "built:1")
        base, step, last = image.chain_ids
        lab.kept = {str(step)}
        assert lab.images.remove("built:1", in_use=nobody)[2:] == [{"Deleted": last}]
        assert {info.name for info in lab.snapshotter.items()} == {base, step}

    experiment(body)


def test_prune_gives_up_downloads_that_were_broken_off(experiment: Experiment) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with lab.images.partials.open(sha256(b"whole"), 100) as partial:
            partial.write(b"half")
        assert lab.images.prune(in_use=nobody) == ([], 4)
        assert lab.images.partials.sizes() == {}

    experiment(body)
