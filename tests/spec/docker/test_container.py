"""What the real Docker 28.5 answered, read into our types and written again: the same bytes, keys in the same order.

The samples lie in ``tests/api/samples``; paths and versions in them were made neutral.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from wherry.spec.docker import container, event, exec, image, network, stats, system, volume
from wherry.spec.docker.body import convert, encode

SAMPLES = Path(__file__).parents[2] / "api" / "samples"

KINDS: dict[str, Any] = {
    "changes": list[container.FilesystemChange],
    "container_created": container.ContainerInspect,
    "container_exited": container.ContainerInspect,
    "container_failed": container.ContainerInspect,
    "container_list": list[container.ContainerSummary],
    "container_minimal": container.ContainerInspect,
    "container_privileged": container.ContainerInspect,
    "container_running": container.ContainerInspect,
    "container_sized": container.ContainerInspect,
    "exec_created": exec.ExecInspect,
    "exec_ended": exec.ExecInspect,
    "history": list[image.HistoryEntry],
    "image": image.ImageInspect,
    "image_list": list[image.ImageSummary],
    "info": system.Info,
    "network": network.Network,
    "network_list": list[network.Network],
    "stats": stats.ContainerStats,
    "stats_stopped": stats.ContainerStats,
    "top": container.ContainerTop,
    "version": system.Version,
    "volume_list": volume.VolumeList,
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_dockers_answer_comes_out_as_it_went_in(name: str, kind: Any) -> None:
    raw = (SAMPLES / f"{name}.json").read_bytes()
    assert encode(msgspec.json.decode(raw, type=kind)) == raw


def test_the_keys_of_disk_usage_are_dockers() -> None:
    raw = (SAMPLES / "disk_usage.json").read_bytes()
    assert msgspec.json.decode(encode(msgspec.json.decode(raw, type=system.DiskUsage))) == msgspec.json.decode(raw)


def test_every_event_comes_out_as_it_went_in() -> None:
    for line in (SAMPLES / "events.json").read_bytes().splitlines(keepends=True):
        assert encode(msgspec.json.decode(line, type=event.Event)) == line


@pytest.mark.parametrize("name", ["container_minimal", "container_running", "container_privileged"])
def test_an_inspected_container_can_be_created_again(name: str) -> None:
    inspected = msgspec.json.decode((SAMPLES / f"{name}.json").read_bytes())
    body = convert(container.ContainerCreate, {**inspected["Config"], "HostConfig": inspected["HostConfig"]})
    assert msgspec.json.decode(encode(body.config())) == inspected["Config"]
    assert msgspec.json.decode(encode(body.host_config)) == inspected["HostConfig"]


def test_no_sample_is_left_out() -> None:
    assert {path.stem for path in SAMPLES.glob("*.json")} == {*KINDS, "disk_usage", "events"}
