"""What the real Docker printed, kept in a file, to be compared with what is printed here.

A file holds ``$ command`` lines, each followed by what came: lines of standard output after ``|``, of standard error after ``!``, and the
exit code after ``=`` where it is not 0. A command that begins with ``sh:`` is one for the shell, where ``DOCKER`` stands for the client.

To record anew, with the real command line and engine:  python -m tests.compat.recordings FILE CLIENT HOST
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Run = Callable[[str], tuple[int, str, str]]
AGO = re.compile(r"(?:About an? )?(?:\d+ )?(?:seconds?|minutes?|hours?|days|weeks|months|years) ago|Less than a second ago")


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Every command with the lines recorded for it."""
    command, lines = "", list[str]()
    for line in path.read_text().splitlines():
        if line.startswith("$ "):
            if command:
                yield command, lines
            command, lines = line[2:], []
        elif line and line[0] in "|!=":
            lines.append(line)
    if command:
        yield command, lines


def lines_of(result: tuple[int, str, str]) -> list[str]:
    """A result as it is recorded, without what changes with the day."""
    code, out, err = result
    found = [f"|{line}".rstrip() for line in AGO.sub("AGO", out).split("\n")]
    found += [f"!{line}".rstrip() for line in AGO.sub("AGO", err).split("\n")]
    return [line for line in found if len(line) > 1] + ([f"={code}"] if code else [])


def runner(client: str, environment: dict[str, str]) -> Run:
    """Runs commands with ``client``."""

    def run(command: str) -> tuple[int, str, str]:
        words = ["sh", "-c", re.sub(r"\bDOCKER\b", client, command[4:])] if command.startswith("sh: ") else [client, *shlex.split(command)]
        done = subprocess.run(
            words,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def record(path: Path, run: Run) -> None:
    """Write the file anew, its commands as they are."""
    text = path.read_text()
    head = text[: text.index("$ ")] if "$ " in text else text
    parts = ["\n".join([f"$ {command}", *lines_of(run(command))]) for command, _ in commands(path)]
    path.write_text(head + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    file, program, host = sys.argv[1:]
    record(Path(file), runner(program, {"DOCKER_HOST": host}))
