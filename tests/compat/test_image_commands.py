"""Commands on images, and on containers that do not run, print what Docker printed; by `wherry` and by Docker's own command line."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tests.compat.docker_cli import find_docker
from tests.compat.recordings import commands, lines_of, runner
from tests.conftest import WHERRY, Daemon

pytestmark = pytest.mark.root
RECORDED = (Path(__file__).with_name("image_commands.txt"), Path(__file__).with_name("container_commands.txt"))


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


BASE, MIDDLE, TOP = (
    tar({"bin/echo": b"x" * 5000}),
    tar({"data/a": b"1" * 500, "data/b": b"2" * 12345}),
    tar({"data/.wh.a": b"", "data/c": b"3"}),
)


def image(*layers: bytes, created: str, **more: Any) -> tuple[bytes, tuple[bytes, ...]]:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "history": [{"created": created, "created_by": f"step {number}"} for number in range(len(layers))],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]},
        **more,
    }
    return json.dumps({key: value for key, value in config.items() if value is not None}).encode(), layers


def archive(*images: tuple[tuple[bytes, tuple[bytes, ...]], list[str] | None]) -> bytes:
    files: dict[str, bytes] = {}
    items = []
    for (config, layers), tags in images:
        names = [hashlib.sha256(layer).hexdigest() + "/layer.tar" for layer in layers]
        name = hashlib.sha256(config).hexdigest() + ".json"
        files |= {name: config, **dict(zip(names, layers, strict=True))}
        items.append({"Config": name, "RepoTags": tags, "Layers": names})
    return tar({**files, "manifest.json": json.dumps(items).encode()})


def archives(directory: Path) -> None:
    """What the recorded commands load."""
    command = 'RUN |1 X=1 /bin/sh -c echo a very long command line that does not fit into the table <> & "quoted" # buildkit'
    settings = {
        "Cmd": ["sh", "-c", 'echo "hi" && true'],
        "Env": ["PATH=/bin", "A=1"],
        "Labels": {"rec.tier": "one", "rec.stage": "dev"},
        "ExposedPorts": {"80/tcp": {}},
        "WorkingDir": "/data",
        "Volumes": {"/v": {}},
        "StopSignal": "SIGINT",
        "User": "7",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000},
    }
    history = [
        {"created": "2026-01-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file:abc in / "},
        {"created": "2026-01-01T00:00:01Z", "created_by": '/bin/sh -c #(nop)  CMD ["sh"]', "empty_layer": True},
        {"created": "2026-01-02T03:04:05.678901234Z", "created_by": command, "comment": "buildkit.dockerfile.v0"},
    ]
    a = image(BASE, MIDDLE, created="2026-01-02T03:04:05.678901234Z", config=settings, author="me <m@x>", comment="said", history=history)
    several = [
        (a, ["rec-a:1", "rec-a:latest"]),
        (image(BASE, MIDDLE, TOP, created="2026-02-02T03:04:05Z"), ["rec-b:1"]),
        (image(BASE, created="2026-03-03T00:00:00Z", architecture="arm64", variant="v8"), ["rec-arm:1"]),
        (image(BASE, MIDDLE, created="0001-01-01T00:00:00Z", history=None), ["rec-bare:1"]),
    ]
    (directory / "several.tar").write_bytes(archive(*several))
    (directory / "moved.tar").write_bytes(archive((image(BASE, TOP, created="2026-02-05T00:00:00Z"), ["rec-b:1"])))
    (directory / "nameless.tar").write_bytes(archive((image(BASE, TOP, MIDDLE, created="2026-02-06T00:00:00Z"), None)))
    (directory / "layer.tar").write_bytes(MIDDLE)


@pytest.mark.parametrize("client", ["wherry", "docker"])
def test_every_command_prints_what_docker_printed(client: str, own_engine: Daemon, tmp_path: Path) -> None:
    program = WHERRY if client == "wherry" else find_docker()
    if program is None:
        pytest.skip("needs Docker's command line: no `docker` on PATH, nor in $PEERS_CLIENTS")
    if client == "docker" and " 28.5." not in subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("Docker's command line is another version than what was recorded (28.5)")
    archives(tmp_path)
    environment = {"DOCKER_HOST": own_engine.host, "WHERRY_HOST": own_engine.host, "DOCKER_CONFIG": f"{own_engine.root}/config"}
    run = runner(program, environment | {"ARCHIVES": str(tmp_path)})
    wrong = []
    for command, expected in chain.from_iterable(map(commands, RECORDED)):
        found = lines_of(run(command.replace("$ARCHIVES", str(tmp_path))))
        found = [re.sub(r"\b[Ww]herry\b", "docker", line.replace(str(tmp_path), "$ARCHIVES")) for line in found]
        if found != expected:
            wrong.append("\n".join([f"$ {command}", "expected:", *expected, "found:", *found]))
    assert not wrong, "\n\n".join(wrong)
