"""Manifest lists from the command line, through a real registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar
from tests.system.registry import Registry, registry


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def test_images_of_several_platforms_are_pushed_under_one_name(engine: Daemon, hub: Registry) -> None:
    intel, arm, both = (f"{hub.address}/{name}:1" for name in ("intel", "arm", "both"))
    engine.run("tag", "bb", intel)
    engine.run("import", "--platform", "linux/arm64", "-", arm, stdin=busybox_tar())
    for name in (intel, arm):
        engine.run("push", name)
    assert engine.out("manifest", "create", both, intel, arm) == f"Created manifest list {both}"
    again = engine.run("manifest", "create", both, intel, check=False)
    assert (again.code, again.err) == (1, "refusing to amend an existing manifest list with no --amend flag\n")
    engine.run("manifest", "annotate", both, arm, "--variant", "v8", "--os-features", "a,b")
    wrong = engine.run("manifest", "annotate", both, arm, "--arch", "bogus", check=False)
    assert wrong.err == "manifest entry for image has unsupported os/arch combination: /bogus\n"
    made = engine.out("manifest", "inspect", both)
    platforms = [entry["platform"] for entry in json.loads(made)["manifests"]]
    assert platforms == [
        {"architecture": "arm64", "os": "linux", "os.features": ["a", "b"], "variant": "v8"},
        {"architecture": "amd64", "os": "linux"},
    ]
    pushed = engine.out("manifest", "push", "--purge", both).splitlines()
    assert [line.split("@")[0] for line in pushed[:2]] == [f"Pushed ref {hub.address}/both"] * 2
    assert engine.out("manifest", "inspect", both) == made  # now from the registry
    assert engine.run("manifest", "rm", both, check=False).err == f"No such manifest: {both}\n"
    told = json.loads(engine.out("manifest", "inspect", "-v", both))
    assert [entry["Descriptor"]["platform"]["architecture"] for entry in told] == ["arm64", "amd64"]
    assert pushed[2] in engine.out("pull", both)
    assert engine.out("run", "--rm", both, "echo", "ran") == "ran"
    engine.run("rmi", both, intel, arm)


def test_a_list_takes_no_manifest_of_another_registry_and_no_list(engine: Daemon, hub: Registry, tmp_path: Path) -> None:
    one = f"{hub.address}/one:1"
    engine.run("tag", "bb", one)
    engine.run("push", one)
    engine.run("manifest", "create", "elsewhere.example/list:1", one)
    refused = engine.run("manifest", "push", "elsewhere.example/list:1", check=False)
    assert "cannot use source images from a different registry" in refused.err
    engine.run("manifest", "rm", "elsewhere.example/list:1")
    engine.run("manifest", "create", f"{hub.address}/list:1", one)
    engine.run("manifest", "push", "-p", f"{hub.address}/list:1")
    nested = engine.run("manifest", "create", f"{hub.address}/list:2", f"{hub.address}/list:1", check=False)
    assert nested.err == f"{hub.address}/list:1 is a manifest list\n"
    engine.run("rmi", one)
