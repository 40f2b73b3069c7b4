"""Bundles of a busybox tree and the command that runs them, for the tests of the room."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bundle.warm import Warm
from tests.runtime.harness import config

from wherry.kernel import cgroup

COMMAND = (sys.executable, "-m", "wherry.bundle.main")


@dataclass
class Done:
    """What a command left."""

    code: int
    out: str
    err: str


@dataclass
class Runtime:
    """One root of states, and bundles beside it."""

    place: Path
    image: Path
    warm: Warm

    def bundle(self, configuration: dict[str, Any]) -> Path:
        directory = self.place / secrets.token_hex(4)
        directory.mkdir()
        configuration["root"] = {"path": str(self.image), **{k: v for k, v in configuration["root"].items() if k != "path"}}
        (directory / "config.json").write_text(json.dumps(configuration))
        return directory

    def __call__(self, *words: str, check: bool = True, stdin: str = "") -> Done:
        with tempfile.TemporaryFile() as into, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            into.write(stdin.encode())
            into.seek(0)
            code = self.warm.call(["--root", str(self.place / "state"), *words], [one.fileno() for one in (into, out, err)])
            texts = [os.pread(one.fileno(), 1 << 20, 0).decode() for one in (out, err)]
        if check and code:
            raise AssertionError(f"wherry-runtime {' '.join(words)}: exit {code}\n{texts[0]}{texts[1]}")
        return Done(code, *texts)

    def run(self, configuration: dict[str, Any], *flags: str, check: bool = True, **more: Any) -> Done:
        return self("run", *flags, "--bundle", str(self.bundle(configuration)), f"t-{secrets.token_hex(4)}", check=check, **more)

    def output(self, script: str, **linux: Any) -> str:
        """What a shell script writes in a bundle with these fields of ``linux``."""
        configuration = bundle_config("sh", "-c", script)
        configuration["linux"].update(linux)
        return self.run(configuration).out

    def create(self, configuration: dict[str, Any], *flags: str) -> str:
        """A created container; its output goes nowhere."""
        ident = f"t-{secrets.token_hex(4)}"
        words = ["create", *flags, "--bundle", str(self.bundle(configuration)), ident]
        self(*words)
        return ident

    def state(self, ident: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", ident).out)
        return found


def bundle_config(*args: str, **process: Any) -> dict[str, Any]:
    """A default container whose control group has the test's name."""
    configuration = config(*args, **process)
    configuration["linux"]["cgroupsPath"] = f"/wherry-test-bundle-{os.getpid()}/{secrets.token_hex(4)}"
    configuration["linux"]["seccomp"] = None
    return configuration


def leftovers(place: Path) -> list[str]:
    """States, mounts and control groups that no container should have left, of this test process."""
    found = [str(one) for one in (place / "state").glob("*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines() if str(place) in line]
    for directory in cgroup.find().directories(f"/wherry-test-bundle-{os.getpid()}"):
        if os.path.isdir(directory):
            found.append(directory)
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if str(place) in (one / "cmdline").read_bytes().decode(errors="replace"):
                found.append(str(one))
        except OSError:
            continue
    return found
