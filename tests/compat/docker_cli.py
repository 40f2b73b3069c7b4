"""Where Docker's own command line is: the `docker` of $PEERS_CLIENTS, or one on PATH; without one the tests are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Daemon, Result

PLUGIN_PLACES = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
)


def find_docker() -> str | None:
    clients = os.environ.get("PEERS_CLIENTS")
    return (shutil.which("docker", path=clients) if clients else None) or shutil.which("docker")


def find_plugin(name: str) -> str | None:
    """The path of `docker-compose`, `docker-buildx`."""
    clients = os.environ.get("PEERS_CLIENTS")
    places = (*PLUGIN_PLACES, *([f"{clients}/config/cli-plugins"] if clients else []))
    return next((f"{place}/{name}" for place in places if os.access(f"{place}/{name}", os.X_OK)), None)


@dataclass(kw_only=True)
class DockerCli:
    """`docker ARGUMENTS` against a daemon of ours, with a configuration that knows only ``plugins``."""

    engine: Daemon
    program: str
    config: Path
    environment: dict[str, str] = field(default_factory=lambda: {"DOCKER_BUILDKIT": "0"})

    def add_plugin(self, path: str) -> None:
        folder = self.config / "cli-plugins"
        folder.mkdir(exist_ok=True)
        (folder / Path(path).name).symlink_to(Path(path).resolve())

    def full_environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.engine.host, "DOCKER_CONFIG": str(self.config), **self.environment}

    def run(self, *arguments: str, stdin: bytes | None = None, cwd: Path | None = None, timeout: float = 60) -> Result:
        done = subprocess.run(
            [self.program, *arguments],
            input=stdin or b"",
            env=self.full_environment(),
            cwd=cwd,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Result(code=done.returncode, out=done.stdout.decode(errors="replace"), err=done.stderr.decode(errors="replace"))

    def out(self, *arguments: str, stdin: bytes | None = None) -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.code == 0, f"docker {' '.join(arguments)}: exit {result.code}\n{result.out}{result.err}"
        return result.out.strip()
