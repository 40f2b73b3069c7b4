"""``wherry rm``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.main import describe
from wherry.client.engine import ApiError, container_path


def run(invocation: Invocation) -> int:
    force = invocation.flag("force")
    query = {"v": invocation.flag("volumes"), "link": invocation.flag("link"), "force": force}
    names = [name.strip("/") for name in invocation.arguments]
    if "" in names:
        raise Failure("container name cannot be empty")
    requests = [("DELETE", container_path(name), query) for name in names]
    status = 0
    for name, answer in zip(invocation.arguments, invocation.program.engine.call_each(requests), strict=True):
        if isinstance(answer, ApiError):
            print(describe(answer), file=sys.stderr)
            status = status if force and answer.status == 404 else 1
        else:
            print(name)
    return status


COMMAND = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Remove one or more containers",
    run,
    flags=(
        Flag("force", "bool", "Kill a running container first", short="f"),
        Flag("link", "bool", "Remove the link, not the container", short="l"),
        Flag("volumes", "bool", "Remove its anonymous volumes too", short="v"),
    ),
    minimum=1,
)
