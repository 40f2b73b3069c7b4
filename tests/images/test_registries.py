"""What a client may ask of registries: several tags at once, names that are none."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from wherry.errors import NotFound

pytestmark = pytest.mark.root
Experiment = Callable[..., None]


def test_all_tags_of_a_repository_are_pushed_and_pulled_at_once(experiment: Experiment, make_image: Any, real_registry: str) -> None:
    repository = f"{real_registry}/t/{uuid.uuid4().hex}"

    async def body(lab: Any, fake: Any) -> None:
        lab.loaded(make_image({"a": b"1"}), f"{repository}:1", f"{repository}:2")
        records = [record async for record in lab.images.registries.push(repository)]
        assert [record["aux"]["Tag"] for record in records if "aux" in record] == ["1", "2"]
        for tag in "12":
            lab.images.remove(f"{repository}:{tag}", in_use=lambda ident: [])
        for outcome in ("Downloaded newer image", "Image is up to date"):
            texts = [record["status"] for record in await lab.pull(repository, all_tags=True)]
            assert [text for text in texts if text.startswith("Status: ")] == [f"Status: {outcome} for {repository}"] == texts[-1:]
            assert sum(text.startswith("Digest: ") for text in texts) == 2
        assert lab.images.list()[0].repo_tags == (f"{repository}:1", f"{repository}:2")

    experiment(body)


def test_a_name_that_does_not_exist_is_not_pushed(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        with pytest.raises(NotFound) as caught:
            [record async for record in lab.images.registries.push("localhost:1/never:1")]
        assert str(caught.value) == "An image does not exist locally with the tag: localhost:1/never"
        lab.loaded(make_image({"a": b"1"}), "localhost:1/never:2")
        with pytest.raises(NotFound) as caught:
            [record async for record in lab.images.registries.push("localhost:1/never:1")]
        assert str(caught.value) == "tag does not exist: localhost:1/never:1"

    experiment(body)
