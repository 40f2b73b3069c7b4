"""Names and ids lead to images, also after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wherry.errors import InvalidRequest, NotFound
from wherry.images.catalog import Catalog
from wherry.spec.digest import Digest
from wherry.spec.reference import parse
from wherry.store.content import Content
from wherry.store.records import Records

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def test_an_image_is_found_by_name_id_and_unique_prefix(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}), "x", "localhost:5000/y:2")
        for text in ("x", "x:latest", "docker.io/library/x", "localhost:5000/y:2", image.id, image.id[7:], image.id[7:19], image.id[:20]):
            assert lab.images.resolve(text).id == image.id
        for text, shown in (("x:3", "x:3"), ("nope", "nope:latest"), ("sha256:" + "0" * 64, "sha256:" + "0" * 64)):
            with pytest.raises(NotFound) as caught:
                lab.images.resolve(text)
            assert str(caught.value) == f"No such image: {shown}"
        with pytest.raises(InvalidRequest, match="must be lowercase"):
            lab.images.resolve("UPPER")

    experiment(body)


def test_a_name_moves_to_the_newer_image(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        old = lab.loaded(make_image({"a": b"1"}), "x:1")
        new = lab.loaded(make_image({"a": b"2"}), "x:1")
        assert lab.images.resolve("x:1").id == new.id
        assert lab.images.get(old.id).repo_tags == ()

    experiment(body)


def test_a_restart_finds_everything_again(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        fake.add(make_image({"a": b"1"}))
        await lab.pull(f"{fake.host}/x/y:1")
        lab.images.tag(f"{fake.host}/x/y:1", "z")
        before = lab.images.resolve("z")
        assert Catalog(lab.records, lab.content).get(before.id) == before
        assert Catalog(lab.records, lab.content).named(parse("z")) == before.id

    experiment(body)


def test_a_commit_adds_a_layer_and_a_line_of_history(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base = lab.loaded(make_image({"a": b"1"}), "base:1")
        lab.snapshotter.prepare("box", base.top)
        facts = lab.snapshotter.capture("box")
        made = lab.images.commit(
            base=base, config=base.config.settings, diff_id=facts.diff_id, author="me", comment="why", created_by="sh", tags=["new:1"]
        )
        assert made.parent == base.id
        assert made.diff_ids == (*base.diff_ids, facts.diff_id)
        assert (made.config.author, made.config.comment) == ("me", "why")
        assert lab.images.history("new:1")[0].created_by == "sh"
        assert lab.images.history("new:1")[1].id == base.id
        roots = lab.images.roots()
        assert {base.id, made.id} <= roots.content
        assert set(map(str, made.chain_ids)) <= roots.snapshots

    experiment(body)


def test_an_image_whose_config_is_damaged_is_shown_refused_and_can_be_removed_and_put_again(tmp_path: Path) -> None:
    content, records = Content(str(tmp_path)), Records(str(tmp_path / "state.db"))
    raw = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "a" * 64]}}).encode()
    ident = Catalog(records, content).put(raw, [5])
    Path(content.path(Digest(ident))).write_bytes(b"{")
    catalog = Catalog(records, content)
    image = catalog.get(ident)
    assert "damaged" in image.damage
    assert [str(item) for item in image.diff_ids] == ["sha256:" + "a" * 64]
    assert list(map(str, catalog.diff_id_users())) == ["sha256:" + "a" * 64]
    catalog.put(raw, [5])
    assert catalog.get(ident).damage == ""
    assert catalog.get(ident).raw == raw
    records.close()


def test_an_image_that_goes_while_all_are_looked_at_is_passed_over(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "state.db"))
    catalog = Catalog(records, Content(str(tmp_path)))
    for letter in "ab":
        diff_id = "sha256:" + letter * 64
        catalog.put(json.dumps({"architecture": "x", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode(), [5])
    images = catalog.all()
    first = next(images).id
    for ident in set(catalog.ids()) - {first}:
        catalog.delete(ident)
    assert list(images) == []
    assert [image.id for image in catalog.all()] == [first]
    records.close()


def test_an_image_that_is_gone_gets_no_name(tmp_path: Path) -> None:
    records = Records(str(tmp_path / "state.db"))
    with pytest.raises(NotFound, match="No such image: sha256:"):
        Catalog(records, Content(str(tmp_path))).name(parse("gone:1"), "sha256:" + "0" * 64)
    assert records.names("tag") == []
    records.close()


def test_an_image_that_comes_back_while_it_goes_has_its_config(tmp_path: Path) -> None:
    content, records = Content(str(tmp_path)), Records(str(tmp_path / "state.db"))
    catalog = Catalog(records, content)
    raw = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "a" * 64]}}).encode()
    ident = catalog.put(raw, [5])
    with ThreadPoolExecutor(1) as thread:
        for _ in range(200):
            come = thread.submit(catalog.put, raw, [5])
            catalog.delete(ident)
            catalog.drop_config(ident)
            come.result()
            assert content.has(Digest(ident)) == catalog.has(ident)
            catalog.put(raw, [5])
    catalog.drop_config(ident)
    assert content.has(Digest(ident))
    records.close()
