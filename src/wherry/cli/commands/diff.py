"""``wherry diff``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Invocation
from wherry.client.engine import container_path

KINDS = ("C", "A", "D")


def run(invocation: Invocation) -> int:
    name = invocation.arguments[0]
    if not name:
        raise Failure("invalid container name or ID: value is empty")
    changes = invocation.program.engine.get(container_path(name, "changes")) or ()
    sys.stdout.write("".join(f"{KINDS[change['Kind']]} {change['Path']}\n" for change in changes))
    return 0


COMMAND = Command("CONTAINER", "Inspect changes to files or directories on a container's filesystem", run, minimum=1, maximum=1)
