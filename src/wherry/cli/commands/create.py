"""``wherry create``."""

from __future__ import annotations

from wherry.cli import creation
from wherry.cli.container_flags import FLAGS
from wherry.cli.flags import Command, Failure, Invocation


def run(invocation: Invocation) -> int:
    try:
        creation.check_pull(invocation)
        body = creation.body_of(invocation)
    except Failure as error:
        raise creation.failure(invocation.path, error) from None
    print(creation.create(invocation, body))
    return 0


COMMAND = Command("[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", run, flags=FLAGS, minimum=1, interspersed=False)
