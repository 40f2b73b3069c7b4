"""What runc's filter answers to every call, as measured: kept in ``verdicts.json``, so that it is checked where no Docker is.

    python -m tests.security.verdicts      measures again with $PEERS_CLIENTS/docker at $PEERS_DOCKER_HOST

An error may be the filter's or the kernel's, so each call is made under Docker's default profile and under none: where the two differ, the
filter has answered.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.security import everycall

FILE = Path(__file__).with_name("verdicts.json")
HIGHEST = 480
SYNC = {"x86_64": 162, "i386": 36}  # writes the whole machine's files, and takes as long
EPERM, ENOSYS = 1, 38


def calls(architecture: str) -> list[tuple[int, ...]]:
    """Every number, with arguments of zero."""
    entry = everycall.LEGACY if architecture == "i386" else 0
    return [(number | entry,) for number in range(HIGHEST + 1) if number != SYNC[architecture]]


def image(program: bytes) -> bytes:
    """A root file system of the program alone, as /calls."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("calls")
        info.size, info.mode = len(program), 0o755
        tar.addfile(info, io.BytesIO(program))
    return buffer.getvalue()


class Docker:
    """The real one, where $PEERS_CLIENTS and $PEERS_DOCKER_HOST say."""

    def __init__(self) -> None:
        self._program = f"{os.environ['PEERS_CLIENTS']}/docker"
        self._environment = {**os.environ, "DOCKER_HOST": os.environ["PEERS_DOCKER_HOST"]}

    def run(self, made: Sequence[tuple[int, ...]], *options: str) -> list[int]:
        name = f"every-call-{os.getpid()}"
        self._docker("import", "-", name, stdin=image(everycall.program(made)))
        try:
            return everycall.results(self._docker("run", "--rm", "--net", "none", *options, name, "/calls"))
        finally:
            self._docker("rmi", "-f", name)

    def _docker(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return subprocess.run([self._program, *arguments], input=stdin, env=self._environment, capture_output=True, check=True).stdout


def load() -> dict[str, dict[str, dict[int, int]]]:
    """architecture -> confined or unconfined -> number -> EPERM or ENOSYS; a number that is missing did something else."""
    data = json.loads(FILE.read_text())
    return {
        architecture: {
            mode: {number: int(errno) for errno, text in answers.items() for number in _numbers(text)} for mode, answers in modes.items()
        }
        for architecture, modes in data["answers"].items()
    }


def record() -> None:
    docker, found = Docker(), {}
    for architecture in SYNC:
        made = calls(architecture)
        found[architecture] = {}
        for mode, options in (("confined", ()), ("unconfined", ("--security-opt", "seccomp=unconfined"))):
            results = {call[0] & ~everycall.LEGACY: result for call, result in zip(made, docker.run(made, *options), strict=True)}
            found[architecture][mode] = {
                str(errno): _ranges([number for number, result in results.items() if result == errno]) for errno in (EPERM, ENOSYS)
            }
    text = "measured by tests/security/verdicts.py: Docker 28.5.2, runc 1.3.6, its default profile and capabilities, Linux 6.18"
    FILE.write_text(json.dumps({"about": text, "answers": found}, indent=1) + "\n")


def _ranges(numbers: list[int]) -> str:
    words: list[list[int]] = []
    for number in numbers:
        if words and words[-1][1] == number - 1:
            words[-1][1] = number
        else:
            words.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in words)


def _numbers(text: str) -> list[int]:
    pairs = [part.partition("-") for part in text.split(",") if part]
    return [number for first, _, last in pairs for number in range(int(first), int(last or first) + 1)]


if __name__ == "__main__":
    sys.exit(record())
