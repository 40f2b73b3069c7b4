"""The hello-world that Wherry carries."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wherry.images import embedded

HERE = os.uname().machine


@pytest.mark.skipif(HERE not in embedded.architectures(), reason=f"no embedded image for {HERE}")
def test_the_program_greets_and_exits(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(embedded.program(HERE, embedded.GREETING.encode()))
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, timeout=60, check=True)
    assert done.stdout.decode() == embedded.GREETING
    assert done.stdout.startswith(b"\nHello from Wherry!\n")


@pytest.mark.parametrize("machine", embedded.architectures())
def test_the_image_is_the_same_every_time_and_says_what_it_is_for(machine: str) -> None:
    assert embedded.image(machine) == embedded.image(machine)
    binary = embedded.program(machine, b"hi")
    kind, number = struct.unpack_from("<HH", binary, 16)
    assert (binary[:4], kind, number) == (b"\x7fELF", 2, {"x86_64": 62, "aarch64": 183}[machine])
    assert binary.endswith(b"hi")


@pytest.mark.root
def test_it_is_made_once_and_runs_under_its_name(experiment: Callable[..., None]) -> None:
    async def body(lab: Any, fake: Any) -> None:
        image = lab.images.load_embedded()
        assert image.repo_tags == ("hello-world:latest",)
        assert image.config.settings.cmd == ["/hello"]
        assert lab.images.load_embedded().id == image.id
        assert await lab.save("hello-world")

    experiment(body)
