"""``wherry top``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Invocation
from wherry.cli.output import align
from wherry.client.engine import container_path


def run(invocation: Invocation) -> int:
    name, *words = invocation.arguments
    found = invocation.program.engine.get(container_path(name, "top"), {"ps_args": " ".join(words) or None})
    rows = [found["Titles"], *found["Processes"]]
    sys.stdout.write(align("".join("\t".join(row) + "\n" for row in rows), minimum=20, padding=3))
    return 0


COMMAND = Command("CONTAINER [ps OPTIONS]", "Display the running processes of a container", run, minimum=1, interspersed=False)
