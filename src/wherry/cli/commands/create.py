"""``wherry create``."""

from __future__ import annotations

from wherry.cli import creation
from wherry.cli.container_flags import FLAGS
from wherry.cli.flags import Command, Failure, Invocation
from wherry.client.engine import ApiError
from wherry.client.http import ConnectError


def run(invocation: Invocation) -> int:
    try:
        ident = creation.create(invocation, creation.body_of(invocation))
    except (ApiError, ConnectError, Failure) as error:
        raise creation.failure(invocation.path, error) from None
    print(ident)
    return 0


COMMAND = Command("[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", run, flags=FLAGS, minimum=1, interspersed=False)
