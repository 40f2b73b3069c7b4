"""What is no image, in Docker's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from wherry.errors import EngineError

Experiment = Callable[..., None]
OCI = "application/vnd.oci.image.manifest.v1+json"
HELM = "application/vnd.cncf.helm.config.v1+json"
PLUGIN = "application/vnd.docker.plugin.v1+json"


def _config(made: Any, **fields: Any) -> dict[str, Any]:
    return {**made.document["config"], **fields}


CASES: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "a chart": (lambda made: {"mediaType": OCI, "config": _config(made, mediaType=HELM)}, f"unsupported media type {HELM}"),
    "a plugin": (lambda made: {"config": _config(made, mediaType=PLUGIN)}, f'Encountered remote "{PLUGIN}"(plugin) when fetching'),
    "another config": (lambda made: {"config": _config(made, mediaType="x/y")}, 'Encountered remote "x/y"(unknown) when fetching'),
    "another layer": (
        lambda made: {"layers": [{**made.document["layers"][0], "mediaType": "application/vnd.foo"}]},
        "unsupported media type application/vnd.foo",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_artifact_is_not_pulled(experiment: Experiment, make_image: Any, name: str) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        fake.add(made)
        changes, words = CASES[name]
        document = {**made.document, **changes(made)}
        fake.add_manifest("1", json.dumps(document).encode(), document["mediaType"])
        with pytest.raises(EngineError) as caught:
            await lab.pull(f"{fake.host}/x/y:1")
        assert str(caught.value) == words
        assert fake.count("/blobs/") == 0

    experiment(body)


def test_an_image_of_windows_and_one_of_schema_1_are_refused(experiment: Experiment, make_image: Any) -> None:
    async def body(lab: Any, fake: Any) -> None:
        made = make_image({"a": b"1"})
        made.config = made.config.replace(b'"linux"', b'"windows"')
        made.document["config"] = made.described(made.config, made.document["config"]["mediaType"])
        fake.add(made)
        with pytest.raises(EngineError, match='image operating system "windows" cannot be used on this platform: operating system is not'):
            await lab.pull(f"{fake.host}/x/y:1")
        fake.add_manifest("old", b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws")
        with pytest.raises(EngineError, match=f"Suggest the author of {fake.host}/x/y:old to upgrade the image"):
            await lab.pull(f"{fake.host}/x/y:old")

    experiment(body)
