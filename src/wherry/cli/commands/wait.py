"""``wherry wait``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Invocation
from wherry.cli.main import describe
from wherry.client.engine import ApiError, container_path


def run(invocation: Invocation) -> int:
    requests = [("POST", container_path(name, "wait"), None) for name in invocation.arguments]
    status = 0
    for answer in invocation.program.engine.call_each(requests):
        if isinstance(answer, ApiError):
            print(describe(answer), file=sys.stderr)
            status = 1
        elif (answer.get("Error") or {}).get("Message"):
            print(answer["Error"]["Message"], file=sys.stderr)
            status = 1
        else:
            print(answer["StatusCode"], flush=True)
    return status


COMMAND = Command("CONTAINER [CONTAINER...]", "Block until one or more containers stop, then print their exit codes", run, minimum=1)
