"""The real Docker, Podman and skopeo, where there are any.

``WHERRY_PEERS`` names the program that runs them (``PROGRAM docker ARG...``, ``PROGRAM in COMMAND...`` for the others, which see ``/tmp``);
where it is not set and not beside the project, what needs them is skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PEERS = Path(os.environ.get("WHERRY_PEERS") or Path(__file__).parents[3] / "shared" / "peers" / "peers")
TREE = Path(os.environ.get("PEERS") or Path.home() / ".cache" / "peers") / "sid"

needed = pytest.mark.skipif(not PEERS.exists() or not (TREE / ".ready").exists(), reason="needs the peers (WHERRY_PEERS)")


def peers(*words: str, check: bool = True, errors: bool = False) -> str:
    """What it printed; with ``errors`` on standard error too."""
    done = subprocess.run([str(PEERS), *words], capture_output=True, text=True, check=False, timeout=110)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip() + (done.stderr if errors else "")


def needs_dockerd() -> None:
    """Skip where the peers' dockerd does not run."""
    if not peers("docker", "version", "--format", "{{.Server.Version}}", check=False):
        pytest.skip("the peers' dockerd does not run")
