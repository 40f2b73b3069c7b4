"""``wherry rename``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Invocation
from wherry.client.engine import ApiError, container_path


def run(invocation: Invocation) -> int:
    old, new = (name.strip() for name in invocation.arguments)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        invocation.program.engine.post(container_path(old, "rename"), {"name": new})
    except ApiError as error:
        print(f"Error response from daemon: {error}", file=sys.stderr)
        raise Failure(f"Error: failed to rename container named {old}") from None
    return 0


COMMAND = Command("CONTAINER NEW_NAME", "Rename a container", run, minimum=2, maximum=2)
