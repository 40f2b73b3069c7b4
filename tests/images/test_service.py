"""The room's own surface: names, registration, commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wherry.errors import Internal, InvalidRequest, NotFound
from wherry.images.layers import Needed
from wherry.spec import image as spec

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def test_an_image_is_found_by_name_by_id_and_by_the_beginning_of_its_id(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}), "x:1")
        for text in ("x:1", "docker.io/library/x:1", image.id, image.id[7:], image.id[7:15]):
            assert lab.images.resolve(text).id == image.id
        with pytest.raises(NotFound, match="No such image: x:2"):
            lab.images.resolve("x:2")
        with pytest.raises(InvalidRequest, match="invalid reference format"):
            lab.images.resolve("X:!")

    experiment(body)


def test_a_name_moves_and_the_other_image_keeps_its_id(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        first, second = lab.loaded(make_image({"a": b"1"}), "x:1"), lab.loaded(make_image({"b": b"2"}), "y:1")
        lab.images.tag("y:1", "x:1")
        assert lab.images.resolve("x:1").id == second.id
        assert lab.images.get(first.id).repo_tags == ()

    experiment(body)


def test_an_image_whose_layer_is_not_here_is_not_registered(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with pytest.raises(Internal, match="does not exist"):
            lab.images.register(make_image({"a": b"1"}).config, tags=["x:1"])
        with pytest.raises(InvalidRequest):
            lab.images.register(b"{}x")
        assert lab.is_empty()

    experiment(body)


def test_a_commit_adds_a_layer_and_a_line_of_history(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        base = lab.loaded(make_image({"a": b"1"}), "base:1")
        more = lab.loaded(make_image({"a": b"1"}, {"b": b"2"}))
        made = lab.images.commit(
            base=base, config=spec.Config(cmd=["sh"]), diff_id=more.diff_ids[1], comment="why", created_by="sh", tags=["new:1"]
        )
        assert made.diff_ids == more.diff_ids
        assert made.parent == base.id
        assert lab.images.history("new:1")[0].comment == "why"
        assert lab.events[-1][0] == "tag"

    experiment(body)


def test_layers_are_held_until_the_thread_that_reads_them_has_ended(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.loaded(make_image({"a": b"1"}), "x:1")
        held: list[int] = []

        def work(out: Any) -> None:
            try:
                while True:
                    out.write(b"piece")
            except BrokenPipeError:
                held.append(len(lab.images.layers.discard([image.chain_ids[0]], lambda: Needed(chains=()))))
                raise

        pieces = lab.images.written([image], work)
        assert await anext(pieces) == b"piece"
        await pieces.aclose()
        assert held == [0]

    experiment(body)
